"""The API server, as far as operators need it: six calls over HTTP, with errors that say whether to try again."""

from __future__ import annotations

import dataclasses
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

from penstock.runtime import errors

Object = dict[str, Any]
FIELD_MANAGER = "penstock-operator"
_TIMEOUT_S = 30.0
_RETRYABLE = frozenset({408, 409, 429, 500, 502, 503, 504})


class GoneError(errors.RetryableError):
    """The history that a watch asked for is not kept any more: list again."""


@dataclasses.dataclass(frozen=True)
class Event:
    """One entry of a watch: ADDED, MODIFIED or DELETED, and the object."""

    type: str
    object: Object


class KubeClient:
    """All methods raise `RetryableError` where the server is away, busy or in conflict, else `TerminalError`."""

    def __init__(self, server: str, ssl_context: ssl.SSLContext, token: str) -> None:
        """`token` may be empty where the context shows a certificate; `server` begins with https://."""
        self._http = httpx.AsyncClient(
            base_url=server,
            verify=ssl_context,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def get(self, path: str) -> Object | None:
        """An object, or None where there is none."""
        answer = await self._send("GET", path)
        return None if answer.status_code == 404 else _body(answer)

    async def list(self, path: str, labels: str = "") -> tuple[list[Object], str]:
        """The objects of a collection, and the version from which a watch goes on."""
        body = _body(await self._send("GET", path, params={"labelSelector": labels} if labels else {}))
        return body["items"], body["metadata"]["resourceVersion"]

    async def watch(self, path: str, version: str, labels: str = "", wait_s: int = 300) -> AsyncIterator[Event]:
        """Changes after `version`; ends by itself after `wait_s`. Raises `GoneError` where the version is too old."""
        params = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(wait_s)}
        if labels:
            params["labelSelector"] = labels
        try:
            async with self._http.stream("GET", path, params=params, timeout=wait_s + _TIMEOUT_S) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise _error(answer)
                async for line in answer.aiter_lines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise GoneError(event["object"].get("message", "the watch has ended"))
                    yield Event(event["type"], event["object"])
        except httpx.TransportError as exc:
            raise errors.RetryableError(f"the API server cannot be reached: {exc!r}") from exc

    async def create(self, path: str, document: Object) -> bool:
        """Creates an object; False where one of the name is there, as after an answer that was lost."""
        answer = await self._send("POST", path, document, params={"fieldManager": FIELD_MANAGER})
        if answer.status_code == 409:
            return False
        _body(answer)
        return True

    async def merge(self, path: str, change: Object) -> Object:
        """A merge patch. With metadata.resourceVersion in it, `RetryableError` where the object has changed since."""
        return _body(await self._send("PATCH", path, change, "application/merge-patch+json"))

    async def apply(self, path: str, document: Object) -> Object:
        """Server-side apply of the fields that are the operator's."""
        params = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return _body(await self._send("PATCH", path, document, "application/apply-patch+yaml", params))

    async def delete(self, path: str, uid: str, version: str) -> bool:
        """Deletes the object if it is still this one, unchanged; False where it is not."""
        preconditions = {"preconditions": {"uid": uid, "resourceVersion": version}}
        answer = await self._send("DELETE", path, preconditions)
        if answer.status_code in (404, 409):
            return False
        _body(answer)
        return True

    async def _send(
        self,
        method: str,
        path: str,
        document: Object | None = None,
        kind: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        content = None if document is None else json.dumps(document)
        headers = {} if document is None else {"Content-Type": kind}
        try:
            return await self._http.request(method, path, content=content, headers=headers, params=params)
        except httpx.TransportError as exc:
            raise errors.RetryableError(f"the API server cannot be reached: {exc!r}") from exc


def _body(answer: httpx.Response) -> Object:
    if not answer.is_success:
        raise _error(answer)
    body: Object = answer.json()
    return body


def _error(answer: httpx.Response) -> errors.PenstockError:
    """What a refusal means."""
    try:
        message = answer.json()["message"]
    except (ValueError, KeyError):
        message = answer.text[:200]
    text = f"API server: {answer.status_code}: {message}"
    if answer.status_code == 410:
        return GoneError(text)
    return errors.RetryableError(text) if answer.status_code in _RETRYABLE else errors.TerminalError(text)

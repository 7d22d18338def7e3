"""The API server, as far as operators need it: a few calls over HTTP, with errors that say whether to try again."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import orjson

from penstock.runtime import clock as clocks
from penstock.runtime import errors

Object = dict[str, Any]
FIELD_MANAGER = "penstock-operator"
_TIMEOUT_S = 30.0
_PAGE = 500
# Most servers tell something each minute, if only the version: of a path that swallows everything nothing comes at all.
_SILENT_S = 150.0
_AGAIN_LEAST_S = 0.1
_RETRYABLE = frozenset({408, 409, 429, 500, 502, 503, 504})


class GoneError(errors.RetryableError):
    """The history that a watch asked for is not kept any more: list again."""


class ConflictError(errors.RetryableError):
    """The object is another than the one that was meant: look again."""


@dataclasses.dataclass(frozen=True)
class Event:
    """One entry of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

    type: str
    object: Object


class UnknownKindError(errors.TerminalError):
    """The server has no such kind, or no such object to change."""


class KubeClient:
    """All methods raise `RetryableError` where the server is away, busy or in conflict, else `TerminalError`."""

    def __init__(
        self,
        server: str,
        ssl_context: ssl.SSLContext,
        token: str | Callable[[], str],
        *,
        timeout_s: float = _TIMEOUT_S,
        manager: str = FIELD_MANAGER,
        on_call: Callable[[str, int], None] = lambda verb, code: None,
        may_write: Callable[[], bool] = lambda: True,
        clock: clocks.Clock | None = None,
        silent_s: float = _SILENT_S,
    ) -> None:
        """`server` begins with https://. `token` may be empty where the context shows a certificate. `manager` is whom
        the fields belong to that are written.

        `on_call(verb, status code)` is told of every answer, with 0 where none came. While `may_write` says no, calls
        that change something raise `FencedError`. A refusal that says when to ask again is waited for, in all for
        `timeout_s` at most. A watch of which nothing came for `silent_s` ends.
        """
        self._silent_s = silent_s
        self._clock = clock or clocks.SystemClock()
        self._token = token if callable(token) else lambda: token
        self._on_call, self._may_write, self._timeout_s, self._manager = on_call, may_write, timeout_s, manager
        self._http = httpx.AsyncClient(
            base_url=server,
            verify=ssl_context,
            timeout=timeout_s,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def get(self, path: str) -> Object | None:
        """An object, or None where there is none."""
        answer = await self._send("get", "GET", path)
        return None if answer.status_code == 404 else _body(answer)

    async def list(self, path: str, labels: str = "") -> tuple[list[Object], str]:
        """The objects of a collection, page by page, and the version from which a watch goes on."""
        found: list[Object] = []
        params = {"limit": str(_PAGE)} | ({"labelSelector": labels} if labels else {})
        while True:
            body = _body(await self._send("list", "GET", path, params=params))
            found += body["items"]
            meta = body["metadata"]
            if not meta.get("continue"):
                return found, meta["resourceVersion"]
            params["continue"] = meta["continue"]

    async def watch(
        self, path: str, version: str, labels: str = "", wait_s: int = 300, opened: Callable[[], None] = lambda: None
    ) -> AsyncIterator[Event]:
        """Changes after `version`; ends by itself after `wait_s`. Raises `GoneError` where the version is too old.

        `opened` is called when the server has begun to answer.
        """
        params = {
            "watch": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(wait_s),
            "allowWatchBookmarks": "true",
        }
        if labels:
            params["labelSelector"] = labels
        timeout = httpx.Timeout(self._timeout_s, read=min(wait_s + self._timeout_s, self._silent_s))
        try:
            async with self._http.stream(
                "GET", path, params=params, timeout=timeout, headers=self._headers()
            ) as answer:
                self._on_call("watch", answer.status_code)
                if not answer.is_success:
                    await answer.aread()
                    await self._clock.sleep(min(self._timeout_s, _again_s(answer) or 0.0))
                    raise _error(answer)
                opened()
                async for line in answer.aiter_lines():
                    event = orjson.loads(line)
                    if event["type"] == "ERROR":
                        raise GoneError(event["object"].get("message", "the watch has ended"))
                    yield Event(event["type"], event["object"])
        except httpx.ReadTimeout:
            # As if it had ended by itself: where nothing gets through any more, opening it again says so.
            return
        except httpx.TransportError as exc:
            self._on_call("watch", 0)
            raise errors.RetryableError(f"the API server cannot be reached: {exc!r}") from exc
        except orjson.JSONDecodeError as exc:
            raise errors.RetryableError("a watch ended in the middle of an event") from exc

    async def create(self, path: str, document: Object) -> Object | None:
        """Creates an object; None where one of the name is there, as after an answer that was lost."""
        answer = await self._send("create", "POST", path, document, params={"fieldManager": self._manager})
        return None if _reason(answer) == "AlreadyExists" else _body(answer)

    async def replace(self, path: str, document: Object) -> Object:
        """Writes the whole object. `ConflictError` where it is not of the document's resourceVersion any more."""
        return _body(await self._send("update", "PUT", path, document, params={"fieldManager": self._manager}))

    async def merge(self, path: str, change: Object) -> Object:
        """A merge patch. With metadata.resourceVersion in it, `ConflictError` where the object has changed since."""
        params = {"fieldManager": self._manager}
        return _body(await self._send("patch", "PATCH", path, change, "application/merge-patch+json", params))

    async def apply(self, path: str, document: Object) -> Object:
        """Server-side apply of the fields that are the operator's."""
        params = {"fieldManager": self._manager, "force": "true"}
        return _body(await self._send("apply", "PATCH", path, document, "application/apply-patch+yaml", params))

    async def delete(self, path: str, uid: str, version: str = "") -> bool:
        """Deletes the object if it is still this one (and, with a version, unchanged); False where it is not."""
        preconditions = {"uid": uid} | ({"resourceVersion": version} if version else {})
        document = {"preconditions": preconditions, "propagationPolicy": "Background"}
        answer = await self._send("delete", "DELETE", path, document)
        if answer.status_code in (404, 409):
            return False
        _body(answer)
        return True

    def _headers(self) -> dict[str, str]:
        token = self._token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    async def _send(
        self,
        verb: str,
        method: str,
        path: str,
        document: Object | None = None,
        kind: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        content = None if document is None else _written(document)
        late_s = self._clock.monotonic_s() + self._timeout_s
        while True:
            if method != "GET" and not self._may_write():
                raise errors.FencedError("this operator does not lead: nothing may be written")
            headers = self._headers() | ({} if document is None else {"Content-Type": kind})
            try:
                answer = await self._http.request(method, path, content=content, headers=headers, params=params)
            except httpx.TransportError as exc:
                self._on_call(verb, 0)
                raise errors.RetryableError(f"the API server cannot be reached: {exc!r}") from exc
            self._on_call(verb, answer.status_code)
            wait_s = _again_s(answer)
            if wait_s is None or self._clock.monotonic_s() + wait_s > late_s:
                return answer
            await self._clock.sleep(wait_s)


# As Go writes them within strings.
_ESCAPED = {
    b"<": b"\\u003c",
    b">": b"\\u003e",
    b"&": b"\\u0026",
    "\u2028".encode(): b"\\u2028",
    "\u2029".encode(): b"\\u2029",
}


def _written(document: Object) -> bytes:
    """As the API server writes it itself: keys in order, no space, the same escapes.

    It keeps the data of a ControllerRevision as the bytes that came, and takes its own writing of them for a change of what
    cannot change: then nobody could patch the object, and a deletion that is to leave it behind would wait for ever.
    """
    written = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    for plain, escaped in _ESCAPED.items():
        written = written.replace(plain, escaped)
    return written


def _again_s(answer: httpx.Response) -> float | None:
    """When a refusal says that the call may be made again (429 or 5xx, with Retry-After); None for other answers.

    Every call here may be made twice: names, uids and versions keep its second time from doing anything.
    """
    said = answer.headers.get("retry-after", "")
    if not said.isdecimal() or not (answer.status_code == 429 or answer.status_code >= 500):
        return None
    return max(_AGAIN_LEAST_S, float(said))


def _body(answer: httpx.Response) -> Object:
    if not answer.is_success:
        raise _error(answer)
    try:
        body: Object = orjson.loads(answer.content)
    except orjson.JSONDecodeError as exc:
        raise errors.RetryableError("the API server's answer is not JSON") from exc
    return body


def _reason(answer: httpx.Response) -> str:
    """The machine-readable cause of a refusal; empty for an answer that is none."""
    if answer.is_success:
        return ""
    try:
        return str(answer.json().get("reason", ""))
    except ValueError:
        return ""


def _error(answer: httpx.Response) -> errors.PenstockError:
    """What a refusal means."""
    try:
        message = answer.json()["message"]
    except (ValueError, KeyError):
        message = answer.text[:200]
    text = f"API server: {answer.status_code}: {message}"
    if answer.status_code == 410:
        return GoneError(text)
    if answer.status_code == 409:
        return ConflictError(text)
    if answer.status_code == 404:
        return UnknownKindError(text)
    if answer.status_code == 401:
        # A token that has just been rotated is read anew for the next call.
        return UnauthorizedError(text)
    return errors.RetryableError(text) if answer.status_code in _RETRYABLE else errors.TerminalError(text)


class UnauthorizedError(errors.TerminalError):
    """The token is not taken (any more)."""

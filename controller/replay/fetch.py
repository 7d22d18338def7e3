"""One small request and its whole answer, for what surrounds a run: which models are there."""

import asyncio
from collections.abc import Mapping

import orjson

from controller.replay import connection, target

MAX_BODY_BYTES = 16 * 1024 * 1024


class _Whole:
    def __init__(self, done: "asyncio.Future[tuple[int, dict[str, str], bytes]]") -> None:
        self._done = done
        self._status = 0
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._size = 0

    def head(self, status: int, headers: dict[str, str]) -> None:
        self._status, self._headers = status, headers

    def body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MAX_BODY_BYTES:
            self._parts.append(data)

    def end(self) -> None:
        if not self._done.done():
            self._done.set_result((self._status, self._headers, b"".join(self._parts)))

    def broken(self, reason: str, any_byte: bool) -> None:
        if not self._done.done():
            self._done.set_exception(ConnectionError(reason))


async def fetch(
    to: target.Target,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    timeout_s: float = 30.0,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower-case names) and body. Raises `TargetError` when there is none in time."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[int, dict[str, str], bytes]] = loop.create_future()
    try:
        async with asyncio.timeout(timeout_s):
            made = await connect(to)
            try:
                made.send(to.head(method, path, headers), body, _Whole(done))
                return await done
            finally:
                made.abort()
    except (OSError, TimeoutError) as exc:
        reason = f"no answer within {timeout_s:g} s" if isinstance(exc, TimeoutError) else str(exc)
        raise target.TargetError(f"{to.authority}: {reason}") from exc


async def connect(to: target.Target) -> connection.Connection:
    """A connection of its own to the target. Raises `OSError`."""
    _, made = await asyncio.get_running_loop().create_connection(
        lambda: connection.Connection(lambda _: None),
        to.host,
        to.port,
        ssl=to.tls,
        server_hostname=to.host if to.tls else None,
    )
    return made


async def first_model(to: target.Target, headers: Mapping[str, str]) -> str:
    """The first model that `/v1/models` lists. Raises `TargetError` when there is none."""
    status, _, body = await fetch(to, "GET", "/v1/models", headers)
    if status != 200:
        raise target.TargetError(f"{to.authority}: /v1/models answered {status}; name a model with --model")
    try:
        return str(orjson.loads(body)["data"][0]["id"])
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError) as exc:
        raise target.TargetError(f"{to.authority}: /v1/models lists no model; name one with --model") from exc

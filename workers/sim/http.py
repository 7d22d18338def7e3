"""The little of ASGI that the simulated worker needs: read a body, answer, stream, notice that the client left."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

SIMULATED = (b"x-penstock-simulated", b"1")


class ClientLeft(Exception):
    """The client closed the connection."""


class Exchange:
    """One request and its answer."""

    __slots__ = ("_receive", "_send", "path", "request_id", "started")

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.path: str = scope["path"]
        self.request_id = request_id
        self.started = False
        """Whether the head of the answer has been sent."""
        self._receive = receive
        self._send = send

    async def body(self) -> bytes:
        """The whole request body. Raises ClientLeft."""
        parts: list[bytes] = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def watch(self) -> "asyncio.Future[None]":
        """Done once the client has left or the answer is complete. The body must have been read."""
        return asyncio.ensure_future(self._gone())

    async def answer(self, status: int, body: bytes, content_type: bytes = b"application/json") -> None:
        """Send a whole answer."""
        await self._head(status, content_type, (b"content-length", str(len(body)).encode()))
        await self._send({"type": "http.response.body", "body": body})

    async def json(self, status: int, value: object) -> None:
        """Send a whole answer in JSON."""
        await self.answer(status, msgspec.json.encode(value))

    async def begin_events(self) -> None:
        """Send the head of a stream of server-sent events."""
        await self._head(200, b"text/event-stream; charset=utf-8", (b"cache-control", b"no-cache"))

    async def event(self, data: bytes, more: bool = True) -> None:
        """Send events; the last call has `more` false."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _head(self, status: int, content_type: bytes, extra: tuple[bytes, bytes]) -> None:
        self.started = True
        headers = [
            (b"content-type", content_type),
            SIMULATED,
            (b"x-request-id", self.request_id.encode()),
            extra,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

"""One HTTP/1.1 client connection on an asyncio protocol: no task, no future and no copy per request."""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from controller.replay import target

MAX_HEADERS_BYTES = 64 * 1024


class Reader(Protocol):
    """Who reads one answer. `broken` comes at most once and after it nothing more; `end` likewise."""

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Status and headers (lower-case names) are here."""

    def body(self, data: bytes) -> None:
        """Some of the body."""

    def end(self) -> None:
        """The whole answer is here."""

    def broken(self, reason: str, any_byte: bool) -> None:
        """The connection ended first; `any_byte`: something of the answer had come."""


class Connection(asyncio.Protocol):
    """Carries one request at a time. `on_idle(connection)` is called when it may carry the next one."""

    def __init__(self, on_idle: Callable[["Connection"], None]) -> None:
        self._on_idle = on_idle
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._any_byte = False
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._parser = httptools.HttpResponseParser(self)

    @property
    def usable(self) -> bool:
        """It may carry a request now."""
        return self._transport is not None and self._reader is None and not self._transport.is_closing()

    @property
    def alive(self) -> bool:
        """It is open."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes, reader: Reader) -> None:
        """Write one request whose answer goes to `reader`."""
        if self._transport is None or self._reader is not None:
            raise RuntimeError("a connection carries one request at a time")
        self._reader, self._any_byte = reader, False
        self._headers, self._header_bytes = {}, 0
        framed = head + b"Content-Length: %d\r\n\r\n" % len(body)
        if len(body) < 16384:
            self._transport.write(framed + body)
        else:
            self._transport.writelines((framed, body))

    def abort(self) -> None:
        """Drop the connection now, without a word to the reader."""
        self._reader = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast(asyncio.Transport, transport)
        target.no_delay(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes came; bytes that nobody asked for end the connection."""
        if self._reader is None:
            self.abort()
            return
        self._any_byte = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._break(f"bad_http ({type(exc).__name__})")

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side closed, or the network did."""
        self._transport = None
        self._break("connection" if exc is None else f"connection ({type(exc).__name__})")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, from the parser."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADERS_BYTES:
            raise ValueError("headers too large")
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is whole, from the parser."""
        if self._reader is not None:
            self._reader.head(self._parser.get_status_code(), self._headers)

    def on_body(self, data: bytes) -> None:
        """Some body, from the parser."""
        if self._reader is not None:
            self._reader.body(data)

    def on_message_complete(self) -> None:
        """The answer is whole, from the parser."""
        reader, self._reader = self._reader, None
        if reader is None or self._transport is None:
            return
        if not self._parser.should_keep_alive():
            self._transport.close()
        reader.end()
        if self.usable:
            self._on_idle(self)

    def _break(self, reason: str) -> None:
        reader, self._reader = self._reader, None
        if self._transport is not None:
            self._transport.abort()
        if reader is not None:
            reader.broken(reason, self._any_byte)

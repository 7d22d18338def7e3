"""Mock engines: vLLM-shaped answers at the least cost, on any number of loopback addresses in one process.

Run as `python -m benchmarks.gateway.engines HOST:PORT [HOST:PORT ...]`; prints `ready` when all listen.
"""

import asyncio
import contextlib
import signal
import sys
from typing import cast

import httptools
import orjson
import uvloop

MODEL = "bench"
CHUNKS = 100
CHUNK_GAP_S = 0.02
STREAM_ASKED = b'"stream":true'


def _head(content_type: str, framing: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{framing}\r\n\r\n".encode()


def _whole(value: object) -> bytes:
    body = orjson.dumps(value)
    return _head("application/json", f"content-length: {len(body)}") + body


USAGE = {
    "prompt_tokens": 512,
    "completion_tokens": CHUNKS,
    "total_tokens": 512 + CHUNKS,
    "prompt_tokens_details": {"cached_tokens": 384},
}
_COMMON = {"id": "chatcmpl-0123456789abcdef", "created": 1_700_000_000, "model": MODEL}
ANSWER = _whole(
    {
        **_COMMON,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 32}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
)
MODELS = _whole({"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": 1 << 20}]})
METRICS = _head("text/plain", "content-length: 0")
STREAM_HEAD = _head("text/event-stream; charset=utf-8", "transfer-encoding: chunked")


def _event(value: object) -> bytes:
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


_CHUNK = {**_COMMON, "object": "chat.completion.chunk"}
CHUNK = _event({**_CHUNK, "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]})
STREAM_END = _event({**_CHUNK, "choices": [], "usage": USAGE}) + _event(b"[DONE]") + b"0\r\n\r\n"


class Engine(asyncio.Protocol):
    """One connection of a proxy."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._streams = False
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A proxy connected."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It left."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Some of a request."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.abort()

    def on_url(self, url: bytes) -> None:
        """The request line is here, from the parser."""
        self._path, self._streams, self._tail = url, False, b""

    def on_body(self, data: bytes) -> None:
        """Look for the switch that asks for a stream: a proxy may have written the body anew, in any order."""
        text = self._tail + data
        self._streams = self._streams or STREAM_ASKED in text
        self._tail = text[1 - len(STREAM_ASKED) :]

    def on_message_complete(self) -> None:
        """Answer."""
        if self._transport is None:
            return
        if self._parser.get_method() == b"GET":
            self._transport.write(METRICS if self._path.startswith(b"/metrics") else MODELS)
            if not self._parser.should_keep_alive():
                self._transport.close()
        elif self._streams:
            self._transport.write(STREAM_HEAD)
            self._loop.call_later(CHUNK_GAP_S, self._next, 0)
        else:
            self._transport.write(ANSWER)

    def _next(self, sent: int) -> None:
        if self._transport is None:
            return
        if sent == CHUNKS:
            self._transport.write(STREAM_END)
            return
        self._transport.write(CHUNK)
        self._loop.call_later(CHUNK_GAP_S, self._next, sent + 1)


async def _serve(addresses: list[str]) -> None:
    loop = asyncio.get_running_loop()
    servers = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        servers.append(await loop.create_server(lambda: Engine(loop), host, int(port), backlog=512))
    print("ready", flush=True)
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    await over.wait()
    for server in servers:
        server.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(sys.argv[1:]))

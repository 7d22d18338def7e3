"""An OpenAI server whose every answer a test scripts, byte by byte, on a real socket."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

MODEL = "m"


@dataclasses.dataclass(eq=False)
class Received:
    """One request as the engine got it."""

    line: bytes
    headers: dict[bytes, bytes]
    body: bytes
    writer: asyncio.StreamWriter
    engine: ScriptedEngine

    def json(self) -> dict[str, Any]:
        """The body."""
        fields = orjson.loads(self.body)
        assert isinstance(fields, dict)
        return fields

    def header(self, name: str) -> str:
        """A header, empty where it is missing."""
        return self.headers.get(name.encode(), b"").decode()


Behaviour = Callable[[Received], Awaitable[None]]


def answer(
    content: str = "hello",
    *,
    status: str = "200 OK",
    prompt_tokens: int = 20,
    cached_tokens: int | None = None,
    headers: str = "",
) -> Behaviour:
    """A whole answer with its length."""

    async def behave(received: Received) -> None:
        usage = {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + 1,
            "completion_tokens": 1,
            "prompt_tokens_details": None if cached_tokens is None else {"cached_tokens": cached_tokens},
        }
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        body = orjson.dumps(
            {"id": "x", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}
        )
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        received.writer.write(head.encode() + body)
        await received.writer.drain()

    return behave


def refusal(status: str, message: str) -> Behaviour:
    """An error in OpenAI's shape."""

    async def behave(received: Received) -> None:
        body = orjson.dumps({"error": {"message": message, "code": int(status[:3])}})
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        received.writer.write(head.encode() + body)
        await received.writer.drain()

    return behave


def event(content: str, *, text: bool = False) -> bytes:
    """One streamed word, of a chat or (`text`) of a completion."""
    choice = {"index": 0, "text": content} if text else {"index": 0, "delta": {"content": content}}
    return b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def stream(
    words: int,
    *,
    end: bool = True,
    gate: asyncio.Event | None = None,
    error: str | None = None,
    done: bool = True,
    headers: str = "",
) -> Behaviour:
    """A stream of words; it waits for `gate` after the first, and without `end` it stops in the middle.

    Its end: an event with `error` where given, usage where asked for, and with `done` what OpenAI's streams end with.
    """

    async def behave(received: Received) -> None:
        writer = received.writer
        writer.write(STREAM_HEAD.removesuffix(b"\r\n") + headers.encode() + b"\r\n")
        for number in range(words):
            writer.write(chunk(event(f"w{number} ", text=received.line.startswith(b"POST /v1/completions"))))
            await writer.drain()
            if number == 0 and gate is not None:
                await gate.wait()
        if not end:
            writer.transport.abort()
            return
        if error is not None:
            writer.write(chunk(b"data: " + orjson.dumps({"error": {"message": error, "code": 500}}) + b"\n\n"))
        if (received.json().get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 10, "completion_tokens": words, "prompt_tokens_details": {"cached_tokens": 4}}
            writer.write(chunk(b"data: " + orjson.dumps({"choices": [], "usage": usage}) + b"\n\n"))
        writer.write((chunk(b"data: [DONE]\n\n") if done else b"") + b"0\r\n\r\n")
        await writer.drain()

    return behave


def by_number(choose: Callable[[int], Behaviour]) -> Behaviour:
    """What the number-th request (from 0) meets."""

    async def behave(received: Received) -> None:
        await choose(received.engine.received.index(received))(received)

    return behave


async def break_connection(received: Received) -> None:
    """The connection ends before the first byte."""
    received.writer.transport.abort()


async def never(received: Received) -> None:
    """No answer until the client leaves."""
    await received.engine.left.wait()


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    """A body in chunks, without trailers."""
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body


class ScriptedEngine:
    """Listens on loopback; `behaviour` answers every POST, GETs get what a vLLM would say."""

    def __init__(self, behaviour: Behaviour | None = None, model: str = MODEL) -> None:
        self.behaviour = behaviour or answer()
        self.model = model
        self.received: list[Received] = []
        self.healthy = True
        # Set when a client's connection ends.
        self.left = asyncio.Event()
        self.arrived = asyncio.Event()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, port: int = 0) -> None:
        """Listens."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> ScriptedEngine:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stops listening and breaks every connection, as a killed process does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            # The client left, or the test is over.
            pass
        finally:
            self._writers.discard(writer)
            self.left.set()
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *lines = head[:-4].split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (item.partition(b":") for item in lines)}
        if headers.get(b"transfer-encoding") == b"chunked":
            body = await _chunked(reader)
        else:
            body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
        if line.startswith(b"GET"):
            return await self._get(line, writer)
        received = Received(line, headers, body, writer, self)
        self.received.append(received)
        self.arrived.set()
        watch = asyncio.create_task(self._watch(reader))
        try:
            await self.behaviour(received)
        finally:
            watch.cancel()
        return not writer.is_closing()

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        while not reader.at_eof() and reader.exception() is None:
            await asyncio.sleep(0.005)
        self.left.set()

    async def _get(self, line: bytes, writer: asyncio.StreamWriter) -> bool:
        if b"/v1/models" in line:
            body = orjson.dumps({"object": "list", "data": [{"id": self.model}]})
        elif b"/metrics" in line:
            body = b'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
        else:
            body = b"" if self.healthy else b"sick"
        status = b"200 OK" if self.healthy else b"503 Service Unavailable"
        writer.write(b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        return False

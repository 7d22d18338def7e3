"""A small OpenAI server on a real socket whose answers a test chooses per request."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import orjson

WHOLE, REFUSE, CUT, ERROR_EVENT, NO_DONE, BUSY, HANG, NOT_STREAM = (
    "whole",
    "refuse",
    "cut",
    "error event",
    "no done",
    "busy",
    "hang",
    "not a stream",
)


@dataclasses.dataclass
class Asked:
    """One request as the server got it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class FakeOpenAI:
    """Serves `/v1/models` and streams; `behave(number, asked)` names what the number-th POST (from 0) meets."""

    def __init__(self, behave: Callable[[int, Asked], str] = lambda _n, _a: WHOLE, words: int = 3) -> None:
        self.asked: list[Asked] = []
        self.url = ""
        self.most_at_once: collections.Counter[str] = collections.Counter()
        self._under_way: collections.Counter[str] = collections.Counter()
        self._behave = behave
        self._words = words
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FakeOpenAI:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=1 << 22)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "GET":
            _plain(writer, "200 OK", {"object": "list", "data": [{"id": "fake", "object": "model"}]})
            return True
        asked = Asked(path, headers, orjson.loads(data))
        self.asked.append(asked)
        session = headers.get("x-session-id", "")
        self._under_way[session] += 1
        self.most_at_once[session] = max(self.most_at_once[session], self._under_way[session])
        try:
            return await self._answer(self._behave(len(self.asked) - 1, asked), asked, writer)
        finally:
            self._under_way[session] -= 1

    async def _answer(self, kind: str, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        if kind == REFUSE:
            writer.transport.abort()
            return False
        # Long enough that requests sent together are under way together.
        await asyncio.sleep(0.005)
        if kind == HANG:
            await asyncio.Event().wait()
        if kind == BUSY:
            _plain(writer, "429 Too Many Requests", {"error": {"message": "busy", "code": 429}}, "retry-after: 1\r\n")
            return True
        if kind == NOT_STREAM:
            _plain(writer, "200 OK", {"choices": []})
            return True
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
            b"x-penstock-endpoint: fake:1\r\nx-request-id: r1\r\n\r\n"
        )
        for i in range(self._words):
            _event(writer, {"choices": [_choice(asked.path, f"w{i} ")]})
            await writer.drain()
            if kind == CUT:
                writer.transport.abort()
                return False
        if kind == ERROR_EVENT:
            _event(writer, {"error": {"message": "engine died", "code": 500}})
        usage = {"prompt_tokens": 10, "completion_tokens": self._words, "prompt_tokens_details": {"cached_tokens": 4}}
        _event(writer, {"choices": [], "usage": usage})
        if kind != NO_DONE:
            _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def _choice(path: str, word: str) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": word}} if "chat" in path else {"index": 0, "text": word}


def _event(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    _chunk(writer, b"data: " + orjson.dumps(value) + b"\n\n")


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def _plain(writer: asyncio.StreamWriter, status: str, value: dict[str, Any], more: str = "") -> None:
    data = orjson.dumps(value)
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n{more}\r\n"
    writer.write(head.encode() + data)

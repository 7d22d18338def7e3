"""A proxy before the API server that goes wrong on purpose: plain HTTP on 127.0.0.1 in front, HTTPS behind.

It knows the requests that pass, so a test says which of them fails, and how: before or after the server has done it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Callable

import httpx

from penstock.runtime import tasks
from tests.cluster import api

_HOP = frozenset({"transfer-encoding", "connection", "content-length", "keep-alive", "content-encoding"})


@dataclasses.dataclass(frozen=True)
class Request:
    """One request. `number` counts those that change something, from 0; -1 for the others."""

    method: str
    path: str
    number: int

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.number >= 0

    @property
    def watches(self) -> bool:
        """Whether its answer is a stream of changes."""
        return "watch=true" in self.path


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens to a request. Without any field it passes."""

    delay_s: float = 0.0
    # The server does it at once, and its answer takes so long.
    answer_delay_s: float = 0.0
    # Answered by the proxy with this status.
    status: int = 0
    # The connection ends without an answer: "before" the server has heard of it, or "after" it has done it.
    drop: str = ""
    # The client's process is dead from here on: nothing passes any more.
    dies: bool = False
    # A watch stays open, and nothing of it comes.
    silent: bool = False


Rule = Callable[[Request], Fault]


class Proxy:
    """`url` is for clients; `rule` may be changed at any time."""

    def __init__(self, access: api.Access, rule: Rule = lambda request: Fault()) -> None:
        self._access, self.rule = access, rule
        self._http = httpx.AsyncClient(
            base_url=access.server, verify=access.ssl_context(), timeout=60.0, trust_env=False
        )
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._watches: set[asyncio.Task[None]] = set()
        self.writes = 0
        self.dead = False
        self.url = ""
        # What was done to requests, for the test's own account.
        self.hurt = 0
        # How often `status` was answered.
        self.refused = 0

    async def start(self) -> None:
        """Listens."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    @property
    def access(self) -> api.Access:
        """As a kubeconfig would have it."""
        return dataclasses.replace(self._access, server=self.url, ca="")

    async def stop(self) -> None:
        """Closes everything."""
        if self._server is not None:
            self._server.close()
        await tasks.cancel(self._connections)
        await self._http.aclose()

    def cut(self) -> None:
        """Ends all watches that run, in the middle."""
        for each in list(self._watches):
            each.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, httpx.TransportError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            self._watches.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request on a connection; whether the connection lives on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in headers.items()}
        body = await reader.readexactly(int(headers.pop("content-length", "0")))
        headers.pop("host", None)
        headers["accept-encoding"] = "identity"
        if self.dead:
            return False
        request = Request(method, path, self.writes if method != "GET" else -1)
        self.writes += request.writes
        fault = self.rule(request)
        if fault != Fault():
            self.hurt += 1
        self.dead = self.dead or fault.dies
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.drop == "before":
            return False
        if fault.status:
            self.refused += 1
            await _answer(writer, fault.status)
            return True
        return await self._pass(request, headers, body, writer, fault)

    async def _pass(
        self, request: Request, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter, fault: Fault
    ) -> bool:
        task = asyncio.current_task()
        assert task is not None
        if request.watches:
            self._watches.add(task)
        async with self._http.stream(request.method, request.path, headers=headers, content=body) as answer:
            if fault.drop == "after":
                await answer.aread()
                return False
            await asyncio.sleep(fault.answer_delay_s)
            kept = [f"{name}: {value}" for name, value in answer.headers.items() if name.lower() not in _HOP]
            lines = [
                f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}",
                *kept,
                "transfer-encoding: chunked",
                "",
                "",
            ]
            writer.write("\r\n".join(lines).encode("latin-1"))
            async for piece in answer.aiter_raw():
                if fault.silent:
                    continue
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        self._watches.discard(task)
        return True


async def _answer(writer: asyncio.StreamWriter, status: int) -> None:
    """A refusal in the API server's form."""
    body = b'{"kind":"Status","apiVersion":"v1","status":"Failure","message":"on purpose","code":%d}' % status
    head = f"HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    with contextlib.suppress(OSError):
        await writer.drain()


def every(number: int, fault: Fault, *, writes: bool = True) -> Rule:
    """Each so-manieth write (or request) has the fault."""
    seen = 0

    def rule(request: Request) -> Fault:
        nonlocal seen
        if request.watches or (writes and not request.writes):
            return Fault()
        seen += 1
        return fault if seen % number == 0 else Fault()

    return rule


def some(share: float, fault: Fault, *, watches: bool = False) -> Rule:
    """A share of the requests, drawn from a fixed seed, has the fault; of watches too where that is said."""
    draw = random.Random(7)
    return lambda request: fault if (watches or not request.watches) and draw.random() < share else Fault()


def dies_at(number: int, moment: str) -> Rule:
    """The client dies at its write `number`: "before" the server has heard of it or "after" it has done it."""
    return lambda request: Fault(drop=moment, dies=True) if request.number == number else Fault()

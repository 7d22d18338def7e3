"""Fuzzes the gateway's HTTP front over real sockets: `python -m benchmarks.fuzz_front --requests 100000 --seed 1`.

A gateway runs in this process in front of an engine that checks what reaches it. After the run: nothing was logged with a
traceback, no exception was hidden inside a parser callback, every connection was closed by the gateway within a deadline, no
answer was a 500 or was misframed, a plain request still works, nothing is in flight, and no socket is left over.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import httptools
import uvloop

from benchmarks import fuzz_requests
from router.server import main
from router.server import settings as gateway_settings

DEADLINE_S = 15.0
_LIMITS = {
    # Far beyond DEADLINE_S: a connection that only ends because it was idle counts as hung.
    "keep_alive_s": 600.0,
    "body_timeout_s": 1.0,
    "upstream_idle_s": 0.5,
    "max_body_bytes": 200_000,
    "first_byte_timeout_s": 5.0,
    "idle_timeout_s": 5.0,
    "drain_s": 1.0,
}
_STATUSES = frozenset((200, 307, 400, 404, 405, 408, 413, 431, 503))
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINES = tuple(b"POST " + path + b" HTTP/1.1" for path in fuzz_requests.HOT)
_WHOLE = b'{"choices":[{"text":"ok"}],"usage":{"prompt_tokens":3,"total_tokens":4,"completion_tokens":1}}'
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_WHOLE), _WHOLE)
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"b\r\ndata: {}  \n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)


@dataclasses.dataclass
class Report:
    """What a run found. `problems` is empty where all is well."""

    connections: int = 0
    requests: int = 0
    forwarded: int = 0
    elapsed_s: float = 0.0
    statuses: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    problems: list[str] = dataclasses.field(default_factory=list)

    def problem(self, text: str) -> None:
        """Notes what went wrong, the first hundred times."""
        if len(self.problems) < 100:
            self.problems.append(text)


class Engine(asyncio.Protocol):
    """An engine that answers at once, and distrusts every byte that it is sent."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._pending = b""
        self._served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._pending += data
        while self._pending:
            head, end, rest = self._pending.partition(b"\r\n\r\n")
            if not end:
                return
            if head.startswith(b"GET "):
                self._transport.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                self._transport.close()
                return
            length = self._length_of(head)
            if length is None or len(rest) > length:
                self._report.problem(f"engine: bytes behind a request, or no length: {self._pending[:600]!r}")
                self._transport.abort()
                return
            if len(rest) < length:
                return
            self._pending = b""
            self._answer(rest)

    def _length_of(self, head: bytes) -> int | None:
        """The body's length of a head that is beyond doubt; None, and a problem, otherwise."""
        line, *lines = head.split(b"\r\n")
        names = [header.partition(b":")[0] for header in lines]
        if line not in _LINES:
            self._report.problem(f"engine: request line {line[:200]!r}")
        if b"\r" in head.replace(b"\r\n", b"") or b"\n" in head.replace(b"\r\n", b"") or b"\0" in head:
            self._report.problem(f"engine: bare CR, LF or NUL in {head[:600]!r}")
        if any(_NAME.fullmatch(name) is None for name in names):
            self._report.problem(f"engine: a name that is no token in {head[:600]!r}")
        lower = [name.lower() for name in names]
        if fuzz_requests.CANARY in lower:
            self._report.problem(f"engine: a smuggled header in {head[:600]!r}")
        for once in (b"content-length", b"host", b"x-request-id"):
            if lower.count(once) != 1:
                self._report.problem(f"engine: {lower.count(once)} times {once!r} in {head[:600]!r}")
        if b"transfer-encoding" in lower:
            self._report.problem(f"engine: transfer-encoding in {head[:600]!r}")
        for header in lines:
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length" and value.strip().isdigit():
                return int(value)
        return None

    def _answer(self, body: bytes) -> None:
        self._report.forwarded += 1
        self._served += 1
        try:
            json.loads(body)
        except (ValueError, RecursionError) as exc:
            if not isinstance(exc, RecursionError):
                self._report.problem(f"engine: a body that is not JSON: {body[:300]!r}")
        answer = _STREAM if b'"stream":true' in body else _ANSWER
        if self._served % 5 == 0:
            # Late enough that pipelined requests have to wait.
            asyncio.get_running_loop().call_later(0.004, self._write, answer)
        else:
            self._write(answer)

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


class Client(asyncio.Protocol):
    """One client connection: collects what comes until the end."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.closed = asyncio.get_running_loop().create_future()
        # Whether the connection was reset while bytes were under way: TCP may then take away the end of what was answered.
        self.reset = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self.reset = exc is not None
        if not self.closed.done():
            self.closed.set_result(None)


class UnfinishedError(ValueError):
    """What was received ends within an answer."""


def answers(received: bytes) -> Iterator[int]:
    """Statuses of the answers that a client received; HEAD is never asked. Raises ValueError where framing is broken."""
    position = 0
    while position < len(received):
        end = received.find(b"\r\n\r\n", position)
        if end < 0:
            raise UnfinishedError(f"an unfinished head: {received[position : position + 200]!r}")
        line, *lines = received[position:end].split(b"\r\n")
        if not re.fullmatch(rb"HTTP/1\.1 \d{3} [ -~]*", line):
            raise ValueError(f"status line {line[:200]!r}")
        status = int(line[9:12])
        headers = {name.lower(): value.strip() for name, _, value in (header.partition(b":") for header in lines)}
        position = end + 4
        if status == 100:
            continue
        yield status
        if b"content-length" in headers:
            position += int(headers[b"content-length"])
            if position > len(received):
                raise UnfinishedError("an answer shorter than its length")
        elif headers.get(b"transfer-encoding") == b"chunked":
            last = received.find(b"0\r\n\r\n", position)
            if last < 0:
                raise UnfinishedError("a chunked answer without an end")
            position = last + 5
        else:
            return


async def ended(client: Client) -> bool:
    """Whether the connection ends; a gateway that still sends is given its time."""
    while True:
        before = len(client.received)
        await asyncio.wait((client.closed,), timeout=DEADLINE_S)
        if client.closed.done():
            return True
        if len(client.received) == before:
            return False


async def connect(port: int, plan: fuzz_requests.Plan, report: Report) -> None:
    """Plays one connection and checks its end."""
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(Client, "127.0.0.1", port)
    try:
        for position, piece in enumerate(plan.pieces):
            if transport.is_closing():
                break
            transport.write(piece)
            if plan.leaves_early and position == len(plan.pieces) // 2:
                transport.abort()
                return
            if position < 200:
                await asyncio.sleep(plan.pause_s if position % 8 == 7 else 0)
        if not await ended(client):
            report.problem(f"connection {plan.number}: open and silent; received {bytes(client.received[-300:])!r}")
            return
        check(plan, bytes(client.received), client.reset, report)
    finally:
        transport.abort()


def check(plan: fuzz_requests.Plan, received: bytes, reset: bool, report: Report) -> None:
    """Whether what a client received is a row of sound answers; the last may be cut short by a reset."""
    try:
        for status in answers(received):
            report.statuses[status] += 1
            if status not in _STATUSES:
                report.problem(f"connection {plan.number}: status {status}")
    except UnfinishedError as exc:
        if not reset:
            report.problem(f"connection {plan.number}: {exc}; {received[-200:]!r}")
    except ValueError as exc:
        report.problem(f"connection {plan.number}: {exc}")


class _Traces(logging.Handler):
    """Notes whatever is logged with an exception."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        if record.exc_info or record.levelno >= logging.ERROR:
            self._report.problem(f"log: {record.getMessage()} {record.exc_info and record.exc_info[1]!r}")


@contextlib.contextmanager
def watched(report: Report, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Notes exceptions wherever they surface: log, loop, interpreter, parser callbacks."""

    class Parser(httptools.HttpRequestParser):  # type: ignore[misc]
        """Turns exceptions in our callbacks, which httptools wraps as bad requests, into problems."""

        def feed_data(self, data: bytes) -> None:
            try:
                super().feed_data(data)
            except httptools.HttpParserCallbackError as exc:
                cause = exc.__context__
                if not isinstance(cause, httptools.HttpParserInvalidURLError):
                    report.problem(f"hidden in a parser callback: {cause!r} from {data[:300]!r}")
                raise

    handler = _Traces(report)
    root = logging.getLogger()
    kept = httptools.HttpRequestParser, sys.unraisablehook
    root.addHandler(handler)
    loop.set_exception_handler(
        lambda _, context: report.problem(f"loop: {context.get('message')} {context.get('exception')!r}")
    )
    sys.unraisablehook = lambda found: report.problem(f"unraisable: {found.exc_value!r}")
    httptools.HttpRequestParser = Parser
    try:
        yield
    finally:
        httptools.HttpRequestParser, sys.unraisablehook = kept
        loop.set_exception_handler(None)
        root.removeHandler(handler)


def sockets() -> int:
    """Open sockets of this process."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


async def _get(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(-1), DEADLINE_S)
    finally:
        writer.close()


async def _settled(admin_port: int, start_sockets: int, port: int, report: Report) -> None:
    """The gateway's state after the storm."""
    body = b'{"model":"m","prompt":"x"}'
    plain = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    if not (await _get(port, plain)).startswith(b"HTTP/1.1 200 "):
        report.problem("after the run a plain request is not answered with 200")
    busy = ["not looked at"]
    left = -1
    for _ in range(int(DEADLINE_S / 0.05)):
        text = (await _get(admin_port, b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).decode()
        gauges = re.findall(
            r"^(penstock_gateway_(?:inflight|endpoint_inflight|endpoint_queued_tokens)\S* \S+)$", text, re.MULTILINE
        )
        busy = [line for line in gauges if not line.endswith(" 0.0")] if gauges else ["no gauges"]
        # The connection that asked takes a moment to end.
        await asyncio.sleep(0.05)
        left = sockets() - start_sockets
        if not busy and left <= 0:
            return
    report.problem(f"after the run: {busy}, sockets over the start {left}")


async def run(
    seed: int, requests: int, concurrency: int = 256, only: int | None = None, progress: bool = False
) -> Report:
    """Plays connections until `requests` were sent, `only` that one where it is given."""
    report = Report()
    loop = asyncio.get_running_loop()
    started_s = time.monotonic()
    server = await loop.create_server(lambda: Engine(report), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = gateway_settings.GatewaySettings.model_validate(
        {"port": 0, "admin_port": 0, "endpoints": [url], "model": "m", "limits": _LIMITS}
    )
    with watched(report, loop):
        life, (_, port), (_, admin_port) = main.build(settings, loop)
        await life.start()
        try:
            start_sockets = sockets()
            numbers = iter(range(10**9)) if only is None else iter([only])

            async def play() -> None:
                while report.requests < requests and (number := next(numbers, None)) is not None:
                    plan = fuzz_requests.plan(seed, number)
                    report.requests += plan.requests
                    report.connections += 1
                    if progress and report.connections % 2_000 == 0:
                        print(f"{report.requests} requests, {len(report.problems)} problems", file=sys.stderr)
                    await connect(port, plan, report)

            await asyncio.gather(*(play() for _ in range(concurrency)))
            await _settled(admin_port, start_sockets, port, report)
        finally:
            await life.stop()
            server.close()
    report.elapsed_s = time.monotonic() - started_s
    return report


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--only", type=int, help="play this connection of the seed alone, and print what it sends")
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    if given.only is not None:
        print(fuzz_requests.plan(given.seed, given.only))
    found = uvloop.run(run(given.seed, given.requests, given.concurrency, given.only, progress=True))
    for line in found.problems:
        print("PROBLEM", line)
    counts = ", ".join(f"{status}: {count}" for status, count in sorted(found.statuses.items()))
    print(f"{found.requests} requests on {found.connections} connections in {found.elapsed_s:.0f} s; answers {counts}")
    print(f"forwarded {found.forwarded}; problems {len(found.problems)}")
    raise SystemExit(1 if found.problems else 0)

"""The load generator, a process of its own: reads one JSON order per line, writes one JSON result per line.

An order names the URL's host and port, the kind (`unary` or `stream`), the size of the bodies in bytes, the number of
requests, how many are under way at once, and a number that makes its prompts unlike those of other orders.
"""

import asyncio
import random
import string
import sys
import time
from typing import Any

import orjson
import uvloop

from benchmarks.gateway import engines
from controller.replay import connection, target

PREFIXES = 16
PREFIX_SHARE = 0.75
_HEADERS = {"Content-Type": "application/json"}


class Bodies:
    """Chat bodies of an exact size: one of 16 shared beginnings (three quarters), then a tail of its own."""

    def __init__(self, size: int, stream: bool, salt: int) -> None:
        rng = random.Random(7)
        letters = string.ascii_lowercase + "     "
        opening = orjson.dumps({"model": engines.MODEL, "messages": [{"role": "user", "content": ""}]})[:-4]
        closing = b'"}],"max_tokens":100,"stream_options":{"include_usage":true},"stream":true}'
        self._closing = closing if stream else b'"}],"max_tokens":100}'
        text = size - len(opening) - len(self._closing)
        head = int(text * PREFIX_SHARE)
        self._tail = text - head
        self._heads = [opening + "".join(rng.choices(letters, k=head)).encode() for _ in range(PREFIXES)]
        self._pool = "".join(rng.choices(letters, k=2 * self._tail + 4096)).encode()
        self._salt = salt
        self._made = 0

    def next(self) -> bytes:
        """The next body; no two have the same tail."""
        self._made += 1
        mark = b"%d %d " % (self._salt, self._made)
        start = (self._made * 97) % (len(self._pool) - self._tail)
        tail = (mark + self._pool[start : start + self._tail])[: self._tail]
        return b"".join((self._heads[self._made % PREFIXES], tail, self._closing))


class Client:
    """One connection that sends the next request as soon as it has its answer."""

    def __init__(self, order: "Order") -> None:
        self._order = order
        self._connection: connection.Connection | None = None
        self._status = 0
        self._sent_s = 0.0
        self._first_s: float | None = None
        self._done = False
        self._tail = b""

    async def open(self) -> None:
        """Connect."""
        order = self._order
        loop = asyncio.get_running_loop()
        _, self._connection = await loop.create_connection(
            lambda: connection.Connection(lambda _: self.send()), order.to.host, order.to.port
        )

    def send(self) -> None:
        """Send the next request of the order, if there is one left."""
        order = self._order
        if order.left == 0 or self._connection is None:
            return
        order.left -= 1
        self._status, self._first_s, self._tail, self._done = 0, None, b"", False
        body = order.bodies.next()
        self._sent_s = time.perf_counter()
        self._connection.send(order.head, body, self)

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.abort()

    def head(self, status: int, headers: dict[str, str]) -> None:
        """An answer begins."""
        self._status = status

    def body(self, data: bytes) -> None:
        """Some of it; the end of a stream may be cut anywhere."""
        if self._first_s is None:
            self._first_s = time.perf_counter()
        self._tail = (self._tail + data)[-32:]

    def end(self) -> None:
        """It is whole."""
        whole = self._status == 200 and (not self._order.stream or b"[DONE]" in self._tail)
        self._order.finished(self._sent_s, self._first_s, whole)

    def broken(self, reason: str, any_byte: bool) -> None:
        """The connection broke; this client sends nothing more."""
        self._order.finished(self._sent_s, self._first_s, False)
        if self._order.left:
            self._order.fail_rest()


class Order:
    """A number of requests, and what came of them."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.to = target.parse(given["url"])
        self.stream = given["kind"] == "stream"
        self.head = self.to.head("POST", "/v1/chat/completions", _HEADERS)
        self.bodies = Bodies(given["size_bytes"], self.stream, given["salt"])
        self.left = given["requests"]
        self._under_way = given["requests"]
        self._at_once = given["at_once"]
        self._errors = 0
        self._latencies_s: list[float] = []
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> dict[str, Any]:
        """Send all of it; the clock runs from the first byte, connections are there before."""
        clients = [Client(self) for _ in range(self._at_once)]
        for client in clients:
            await client.open()
        start_s = time.perf_counter()
        for client in clients:
            client.send()
        await self._over
        wall_s = time.perf_counter() - start_s
        for client in clients:
            client.close()
        known = sorted(self._latencies_s) or [0.0]
        return {
            "errors": self._errors,
            "wall_s": wall_s,
            "p50_ms": known[len(known) // 2] * 1000,
            "p99_ms": known[int(len(known) * 0.99)] * 1000,
        }

    def finished(self, sent_s: float, first_s: float | None, whole: bool) -> None:
        """One request ended. Latency is to the first byte of a stream, to the whole of a unary answer."""
        self._errors += not whole
        if whole and first_s is not None:
            self._latencies_s.append((first_s if self.stream else time.perf_counter()) - sent_s)
        self._count(1)

    def fail_rest(self) -> None:
        """Give up on what was not sent: a benchmark does not go on over errors."""
        self._errors += self.left
        self.left, gone = 0, self.left
        self._count(gone)

    def _count(self, ended: int) -> None:
        self._under_way -= ended
        if self._under_way == 0 and not self._over.done():
            self._over.set_result(None)


async def _obey() -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        result = await Order(orjson.loads(line)).run()
        print(orjson.dumps(result).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(_obey())

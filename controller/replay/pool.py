"""Connections to one target, opened as they are needed and kept for the next request."""

import asyncio
import collections
import dataclasses
from collections.abc import Callable

from controller.replay import connection, target


@dataclasses.dataclass(slots=True)
class Job:
    """A request that waits for a connection. `on_sent(connection)` is called as it is written."""

    head: bytes
    body: bytes
    reader: connection.Reader
    on_sent: Callable[[connection.Connection], None]
    cancelled: bool = False


class Pool:
    """Gives a job the connection used last, or a new one while fewer than `limit` are open; else it waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, to: target.Target, limit: int, connect_s: float) -> None:
        self._loop = loop
        self._to = to
        self._limit = limit
        self._connect_s = connect_s
        self._idle: list[connection.Connection] = []
        self._open: set[connection.Connection] = set()
        self._connecting = 0
        self._waiting: collections.deque[Job] = collections.deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, job: Job) -> None:
        """Send the job once there is a connection; a failure goes to its reader, as `broken`."""
        while self._idle:
            free = self._idle.pop()
            if free.usable:
                self._send(free, job)
                return
            self._open.discard(free)
        if len(self._open) + self._connecting >= self._limit:
            self._open = {each for each in self._open if each.alive}
        if len(self._open) + self._connecting >= self._limit:
            self._waiting.append(job)
            return
        self._connecting += 1
        task = self._loop.create_task(self._connect(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Drop every connection; readers hear nothing more."""
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in self._open:
            each.abort()
        self._open.clear()
        self._idle.clear()

    def discard(self, broken: connection.Connection) -> None:
        """Forget a connection that ended, and let the next job in line have its place."""
        self._open.discard(broken)
        self._next()

    async def _connect(self, job: Job) -> None:
        to = self._to
        try:
            async with asyncio.timeout(self._connect_s):
                _, made = await self._loop.create_connection(
                    lambda: connection.Connection(self._give_back),
                    to.host,
                    to.port,
                    ssl=to.tls,
                    server_hostname=to.host if to.tls else None,
                )
        except (OSError, TimeoutError) as exc:
            self._connecting -= 1
            if not job.cancelled:
                job.reader.broken(f"connect ({type(exc).__name__})", any_byte=False)
            self._next()
            return
        self._connecting -= 1
        self._open.add(made)
        if job.cancelled:
            self._give_back(made)
        elif made.usable:
            self._send(made, job)
        else:
            job.reader.broken("connection", any_byte=False)
            self.discard(made)

    def _send(self, free: connection.Connection, job: Job) -> None:
        job.on_sent(free)
        free.send(job.head, job.body, job.reader)

    def _give_back(self, free: connection.Connection) -> None:
        while self._waiting:
            job = self._waiting.popleft()
            if not job.cancelled:
                self._send(free, job)
                return
        self._idle.append(free)

    def _next(self) -> None:
        if self._waiting:
            self.submit(self._waiting.popleft())

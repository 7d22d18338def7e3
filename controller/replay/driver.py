"""Sends the requests of a trace at their times, whatever the server does (open loop)."""

import array
import asyncio
import collections
import dataclasses
import heapq
import time
from collections.abc import Callable, Iterator, Mapping

from controller.replay import answer, bodies, connection, pool, target
from penstock.report import outcome
from penstock.workload import request

SESSION_HEADER = "x-session-id"
_AHEAD = 8
_SWEEP_S = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class DriveOptions:
    """How a trace is driven.

    speed: trace seconds per second. timeout_s: for one whole request, retries included.
    retries: how often a request is sent again whose connection broke before the first byte of its answer;
        the n-th wait is 0.05 * 4^n s, from n = 0.
    in_order: a turn of a session also waits for the end of the turn before it.
    max_connections: more requests than this wait in line, which shows as lateness.
    """

    speed: float = 1.0
    timeout_s: float = 600.0
    retries: int = 2
    in_order: bool = False
    max_connections: int = 4096
    connect_s: float = 10.0


@dataclasses.dataclass(slots=True)
class _Item:
    asked: request.TraceRequest
    found: outcome.Outcome
    head: bytes
    body: bytes
    number: int
    job: pool.Job | None = None
    on: connection.Connection | None = None
    finished: bool = False


class Driver:
    """One run. `on_done(outcome)` is called as each request ends; `stop` ends the run early."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        to: target.Target,
        headers: Mapping[str, str],
        maker: bodies.Bodies,
        options: DriveOptions,
        on_done: Callable[[outcome.Outcome], None] = lambda _: None,
    ) -> None:
        self.outcomes: list[outcome.Outcome] = []
        self.gaps_s: array.array[float] = array.array("d")
        self._loop = loop
        self._to = to
        self._headers = headers
        self._bodies = maker
        self._options = options
        self._on_done = on_done
        self._pool = pool.Pool(loop, to, options.max_connections, options.connect_s)
        self._source: Iterator[request.TraceRequest] = iter(())
        self._ahead: collections.deque[_Item] = collections.deque()
        self._flying: dict[int, _Item] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._sessions: dict[str, collections.deque[_Item]] = {}
        self._heads: dict[tuple[str, str | None], bytes] = {}
        self._start_s = 0.0
        self._exhausted = False
        self._numbered = 0
        self._failure: Exception | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] = loop.create_future()

    async def run(self, source: Iterator[request.TraceRequest]) -> None:
        """Send everything and wait for every answer. An error of `source` ends the run and is raised."""
        self._source = source
        self._fill()
        self._start_s = time.perf_counter()
        self._sweep()
        self._pump()
        try:
            await self._over
        finally:
            if self._sweeper is not None:
                self._sweeper.cancel()
            await self._pool.close()
        if self._failure is not None:
            raise self._failure

    def stop(self, error: str = "interrupted") -> None:
        """Send nothing more; what is under way ends as an error of this kind."""
        self._exhausted = True
        self._ahead.clear()
        self._sessions.clear()
        for item in list(self._flying.values()):
            self._abandon(item, error)
        self._check_over()

    def now_s(self) -> float:
        """Seconds since the run began; not the loop's clock, which uvloop keeps in whole milliseconds."""
        return time.perf_counter() - self._start_s

    def _fill(self) -> None:
        """Build the next bodies before their time, so that building them makes nothing late."""
        while not self._exhausted and len(self._ahead) < _AHEAD:
            asked = next(self._source, None)
            if asked is None:
                self._exhausted = True
                return
            self._ahead.append(self._item(asked))

    def _item(self, asked: request.TraceRequest) -> _Item:
        path, body = self._bodies.build(asked)
        due_s = asked.arrival_s / self._options.speed
        found = outcome.Outcome(asked.line, asked.source, due_s, asked.input_tokens)
        self._numbered += 1
        return _Item(asked, found, self._head(path, asked.session), body, self._numbered)

    def _head(self, path: str, session: str | None) -> bytes:
        key = (path, session)
        head = self._heads.get(key)
        if head is None:
            extra = {} if session is None else {SESSION_HEADER: session}
            head = self._heads[key] = self._to.head("POST", path, {**self._headers, **extra})
        return head

    def _pump(self) -> None:
        """Send what is due, build ahead, come back when the next one is due."""
        try:
            while self._ahead and self._ahead[0].found.due_s <= self.now_s():
                self._due(self._ahead.popleft())
                if not self._ahead:
                    self._fill()
            self._fill()
        except Exception as exc:
            self._failure = exc
            self.stop()
            return
        if self._ahead:
            self._loop.call_later(max(0.0, self._ahead[0].found.due_s - self.now_s()), self._pump)
        self._check_over()

    def _due(self, item: _Item) -> None:
        self.outcomes.append(item.found)
        session = item.asked.session
        if self._options.in_order and session is not None:
            waiting = self._sessions.get(session)
            if waiting is not None:
                waiting.append(item)
                return
            self._sessions[session] = collections.deque()
        self._launch(item)

    def _launch(self, item: _Item) -> None:
        self._flying[item.number] = item
        heapq.heappush(self._deadlines, (self.now_s() + self._options.timeout_s, item.number))
        self._attempt(item)

    def _attempt(self, item: _Item) -> None:
        if item.finished:
            return

        def ended(_: answer.Answer, error: str | None, any_byte: bool) -> None:
            self._ended(item, error, any_byte)

        def sent(on: connection.Connection) -> None:
            item.on = on

        if item.found.sent_s is None:
            item.found.sent_s = self.now_s()
        reader = answer.Answer(item.found, self.now_s, self.gaps_s, ended)
        item.job = pool.Job(item.head, item.body, reader, sent)
        self._pool.submit(item.job)

    def _ended(self, item: _Item, error: str | None, any_byte: bool) -> None:
        if item.finished:
            return
        if item.on is not None and not item.on.alive:
            self._pool.discard(item.on)
        item.on = None
        if error in ("connect", "connection") and not any_byte and item.found.retries < self._options.retries:
            wait_s = 0.05 * 4**item.found.retries
            item.found.retries += 1
            self._loop.call_later(wait_s, self._attempt, item)
            return
        self._finish(item, error)

    def _finish(self, item: _Item, error: str | None) -> None:
        item.finished = True
        item.found.end_s = self.now_s()
        item.found.error = error
        del self._flying[item.number]
        self._on_done(item.found)
        session = item.asked.session
        if session is not None and (waiting := self._sessions.get(session)) is not None:
            if waiting:
                following = waiting.popleft()
                following.found.due_s = max(following.found.due_s, self.now_s())
                self._launch(following)
            else:
                del self._sessions[session]
        self._check_over()

    def _abandon(self, item: _Item, error: str) -> None:
        if item.job is not None:
            item.job.cancelled = True
        if item.on is not None:
            item.on.abort()
            self._pool.discard(item.on)
        self._finish(item, error)

    def _sweep(self) -> None:
        now_s = self.now_s()
        while self._deadlines and self._deadlines[0][0] <= now_s:
            _, number = heapq.heappop(self._deadlines)
            item = self._flying.get(number)
            if item is not None:
                self._abandon(item, "timeout")
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    def _check_over(self) -> None:
        if self._exhausted and not (self._ahead or self._flying or self._over.done()):
            self._over.set_result(None)

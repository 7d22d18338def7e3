"""Time as something that is handed in, so that tests and simulations bring their own."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for records, monotonic time for durations, and a sleep that follows the latter."""

    def now_s(self) -> float:
        """Seconds since the Unix epoch."""

    def monotonic_s(self) -> float:
        """Seconds since some fixed point; never goes back."""

    async def sleep(self, duration_s: float) -> None:
        """Returns after `duration_s` of monotonic time."""


class SystemClock:
    """The machine's clock."""

    def now_s(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()  # noqa: TID251 - the one place that asks

    def monotonic_s(self) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        """Sleeps on the running event loop."""
        await asyncio.sleep(duration_s)


class ManualClock:
    """A clock that stands still until `advance` moves it."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self._start_s = now_s
        self._elapsed_s = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_s(self) -> float:
        """Start time plus what was advanced."""
        return self._start_s + self._elapsed_s

    def monotonic_s(self) -> float:
        """What was advanced so far."""
        return self._elapsed_s

    async def sleep(self, duration_s: float) -> None:
        """Waits until the clock was advanced by `duration_s`."""
        if duration_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed_s + duration_s, next(self._order), future))
        await future

    async def advance(self, duration_s: float) -> None:
        """Moves time forward, waking sleepers in order and letting each run before time goes on."""
        end_s = self._elapsed_s + duration_s
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end_s:
            due_s, _, future = heapq.heappop(self._sleepers)
            self._elapsed_s = max(self._elapsed_s, due_s)
            if not future.done():
                future.set_result(None)
            await self._settle()
        self._elapsed_s = end_s
        await self._settle()

    async def _settle(self) -> None:
        # A woken task may need several turns of the loop before it sleeps again.
        for _ in range(20):
            await asyncio.sleep(0)

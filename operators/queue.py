"""What is due when: each key once, never worked on twice at a time, and the longest due first."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

from penstock.runtime import clock as clocks

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """A key that is marked while it is worked on becomes due again when that has ended."""

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._due_s: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = 0
        self._running: set[K] = set()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """Keys that are due by now and wait."""
        now_s = self._clock.monotonic_s()
        return sum(due_s <= now_s for due_s in self._due_s.values())

    @property
    def running(self) -> int:
        """Keys that are worked on."""
        return len(self._running)

    def mark(self, key: K, after_s: float = 0.0) -> None:
        """Makes a key due then, or sooner where it already was."""
        due_s = self._clock.monotonic_s() + after_s
        before_s = self._due_s.get(key)
        if before_s is not None and before_s <= due_s:
            return
        self._due_s[key] = due_s
        if key not in self._running:
            self._push(key, due_s)

    async def take(self) -> tuple[K, float]:
        """Waits for the next key; it and since when it has been due, s. `done` has to be called for it."""
        while True:
            now_s = self._clock.monotonic_s()
            while self._heap and self._heap[0][0] <= now_s:
                due_s, _, key = heapq.heappop(self._heap)
                if self._due_s.get(key) != due_s:
                    continue
                del self._due_s[key]
                self._running.add(key)
                return key, now_s - due_s
            self._wake.clear()
            wait_s = self._heap[0][0] - now_s if self._heap else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    def done(self, key: K) -> None:
        """The work on a key has ended."""
        self._running.discard(key)
        if key in self._due_s:
            self._push(key, self._due_s[key])

    def _push(self, key: K, due_s: float) -> None:
        self._order += 1
        heapq.heappush(self._heap, (due_s, self._order, key))
        self._wake.set()

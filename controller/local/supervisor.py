"""Keeps child processes running: one that ends by itself is started again, later each time."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

from penstock.runtime import clock as clocks
from penstock.runtime import errors, processes, tasks

_LOOK_S = 0.1
_BACKOFF_FIRST_S = 0.2
_BACKOFF_MAX_S = 10.0
# A process that ran for so long has not failed to start.
_STABLE_S = 20.0

Restart = Callable[[], Awaitable[None]]
Tell = Callable[[str], None]


@dataclasses.dataclass
class _Watched:
    child: processes.Child
    restart: Restart
    started_s: float
    failures: int = 0
    not_before_s: float = 0.0
    told: bool = False


class Supervisor:
    """Watches children. `tell` gets a line for people about each end and each start."""

    def __init__(self, clock: clocks.Clock, tell: Tell) -> None:
        self._clock, self._tell = clock, tell
        self._watched: dict[str, _Watched] = {}
        self._task: asyncio.Task[None] | None = None

    def watch(self, child: processes.Child, restart: Restart | None = None) -> None:
        """Watches a child that runs; `restart` where spawning it again is not all."""

        async def spawn() -> None:
            child.spawn()

        self._watched[child.name] = _Watched(child, restart or spawn, self._clock.monotonic_s())

    async def start(self) -> None:
        """Starts watching."""
        self._task = asyncio.create_task(self._run(), name="supervisor")

    async def stop(self) -> None:
        """Stops watching, so that what ends now stays ended."""
        if self._task is not None:
            await tasks.cancel([self._task])

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(_LOOK_S)
            for item in list(self._watched.values()):
                await self._look(item)

    async def _look(self, item: _Watched) -> None:
        now_s = self._clock.monotonic_s()
        if item.child.running:
            if item.failures and now_s - item.started_s >= _STABLE_S:
                item.failures = 0
            return
        if not item.told:
            item.told = True
            item.failures += 1
            wait_s = min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2.0 ** (item.failures - 1))
            item.not_before_s = now_s + wait_s
            how = _how(item.child.exit_code)
            self._tell(f"{item.child.name} (pid {item.child.pid}) {how}; starting it again in {wait_s:g} s")
        if now_s < item.not_before_s:
            return
        item.told = False
        item.started_s = now_s
        try:
            await item.restart()
        except errors.PenstockError as exc:
            self._tell(f"{item.child.name} did not start again: {exc}")


def _how(code: int | None) -> str:
    if code is None:
        return "is not there"
    return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"

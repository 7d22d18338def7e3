"""A copy of the registry that follows it, and that stays as it is while the registry cannot be reached.

Snapshot, then the log; the whole again every 30 s and after each loss of contact. What is missing after such a loss is
kept for one lease and 2 s, so that workers that live can register again, and only then dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from penstock.api import types
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, tasks
from penstock.runtime.registry import port

RESYNC_S = 30.0
GRACE_RESYNC_S = 0.5
EXPIRE_S = 0.5
GRACE_EXTRA_S = 2.0
_WAIT_S = 0.5
_RETRY_S = 0.1

OnChange = Callable[[dict[str, types.WorkerRecord], list[str]], None]


class LinkHealth(Protocol):
    """The part of a `RedisLink` that tells of losses of contact that no call of ours has met."""

    @property
    def connections(self) -> int:
        """Rises each time that contact is made again."""


class RegistryWatcher:
    """Calls `on_change(all workers, ids removed)` on the event loop, only where something differs."""

    def __init__(
        self,
        registry: port.Registry,
        link: LinkHealth | None,
        clock: clocks.Clock,
        on_change: OnChange,
        *,
        lease_s: float = 3.0,
    ) -> None:
        """`link` None: contact is judged by our own calls alone. `lease_s`: length of the workers' leases."""
        self._registry = registry
        self._link = link
        self._clock = clock
        self._on_change = on_change
        self._grace_s = lease_s + GRACE_EXTRA_S
        self._log = logs.get("registry-watch")
        self._tasks: list[asyncio.Task[None]] = []
        self._first = asyncio.Event()
        self._cursor = "0-0"
        self._synced_s = 0.0
        self._contact_s: float | None = None
        self._connections = 0
        self._grace_end_s: float | None = None
        self._lost = False
        self.workers: dict[str, types.WorkerRecord] = {}
        # Whether `workers` followed the registry at the last attempt; False from a loss of contact to the next one.
        self.synced = False

    @property
    def stale_s(self) -> float | None:
        """None while in step; else seconds since the registry last answered (infinite where it never did)."""
        if self.synced:
            return None
        if self._contact_s is None:
            return float("inf")
        return self._clock.monotonic_s() - self._contact_s

    async def start(self, wait_s: float | None = 5.0) -> None:
        """Starts following, and waits for the first snapshot for up to `wait_s`; without one it goes on trying."""
        self._tasks = [
            asyncio.create_task(self._follow(), name="registry-follow"),
            asyncio.create_task(self._expire(), name="registry-expire"),
        ]
        if wait_s is None:
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._first.wait()
        except TimeoutError:
            self._log.warning("registry_not_synced", waited_s=wait_s)

    async def stop(self) -> None:
        """Stops following; `workers` stays as it was."""
        await tasks.cancel(self._tasks)
        self._tasks = []

    async def _follow(self) -> None:
        while True:
            try:
                if not self.synced or self._resync_due():
                    await self._resync()
                changes, self._cursor = await self._registry.changes(self._cursor, _WAIT_S)
                self._contact_s = self._clock.monotonic_s()
                self._apply(changes)
            except errors.RetryableError as exc:
                self._lose(str(exc))
                await self._clock.sleep(_RETRY_S)
            except Exception as exc:
                self._lose(f"{type(exc).__name__}: {exc}")
                await self._clock.sleep(1.0)

    async def _expire(self) -> None:
        while True:
            await self._clock.sleep(EXPIRE_S)
            try:
                await self._registry.expire()
            except errors.RetryableError as exc:
                self._lose(str(exc))
            except Exception as exc:
                self._lose(f"{type(exc).__name__}: {exc}")

    def _resync_due(self) -> bool:
        if self._link is not None and self._link.connections != self._connections:
            return True
        interval_s = RESYNC_S if self._grace_end_s is None else GRACE_RESYNC_S
        return self._clock.monotonic_s() - self._synced_s >= interval_s

    def _lose(self, reason: str) -> None:
        self._lost = True
        if self.synced:
            self.synced = False
            self._log.warning("registry_lost", reason=reason, workers_kept=len(self.workers))

    async def _resync(self) -> None:
        connections = self._link.connections if self._link is not None else 0
        if self._link is not None and self._connections and connections != self._connections:
            self._lost = True
        self._lost, lost = False, self._lost
        try:
            snapshot = await self._registry.snapshot_at()
        except BaseException:
            self._lost = self._lost or lost
            raise
        now_s = self._clock.monotonic_s()
        self._contact_s = self._synced_s = now_s
        self._cursor = snapshot.cursor
        self._connections = connections
        if lost and self._first.is_set():
            self._grace_end_s = now_s + self._grace_s
            self._log.info("registry_back", workers=len(snapshot.workers), known=len(self.workers))
        elif self._grace_end_s is not None and now_s >= self._grace_end_s:
            self._grace_end_s = None
        present = {item.record.id: item.record for item in snapshot.workers}
        if self._grace_end_s is not None:
            present = {**self.workers, **present}
        self.synced = True
        self._become(present)
        self._first.set()

    def _apply(self, changes: list[port.Change]) -> None:
        if not changes:
            return
        workers = dict(self.workers)
        for change in changes:
            if change.record is not None:
                workers[change.worker_id] = change.record
            elif change.op == "del" or self._grace_end_s is None:
                workers.pop(change.worker_id, None)
        self._become(workers)

    def _become(self, workers: dict[str, types.WorkerRecord]) -> None:
        removed = sorted(set(self.workers) - set(workers))
        if workers == self.workers:
            return
        self.workers = workers
        try:
            self._on_change(dict(workers), removed)
        except Exception:
            self._log.exception("registry_change_handler_failed")

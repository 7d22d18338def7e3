"""A host that only keeps names: the twin for tests of what is above it."""

from __future__ import annotations

from collections.abc import Sequence

from controller.policy import fleet
from penstock.runtime import errors
from workers.hosting import spec


class MemoryHost:
    """See `port.WorkerHost`. Tests set `hosting` themselves to let workers live and die."""

    def __init__(self) -> None:
        self.hosting: dict[str, fleet.Hosting] = {}
        self.specs: dict[str, spec.WorkerSpec] = {}
        self.stopped: list[str] = []
        self.available = True

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing to leave."""

    async def start_workers(self, specs: Sequence[spec.WorkerSpec]) -> None:
        """Notes them as starting."""
        self._reach()
        for item in specs:
            self.specs[item.id] = item
            self.hosting.setdefault(item.id, fleet.Hosting.STARTING)

    async def stop_worker(self, worker_id: str) -> None:
        """Notes it as stopping."""
        self._reach()
        if worker_id in self.hosting:
            self.hosting[worker_id] = fleet.Hosting.STOPPING
            self.stopped.append(worker_id)

    async def list(self) -> dict[str, fleet.Hosting]:
        """What was noted."""
        self._reach()
        return dict(self.hosting)

    def _reach(self) -> None:
        if not self.available:
            raise errors.RetryableError("host: not available")

"""What a host of workers does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from controller.policy import fleet
from workers.hosting import spec


class WorkerHost(Protocol):
    """All methods raise `RetryableError` while the host cannot be reached. Idempotent by worker id."""

    async def start(self) -> None:
        """Connects."""

    async def stop(self) -> None:
        """Disconnects; the workers stay as they are."""

    async def start_workers(self, specs: Sequence[spec.WorkerSpec]) -> None:
        """Asks for workers; returns before they are ready."""

    async def stop_worker(self, worker_id: str) -> None:
        """Asks a worker to drain and end; returns before it has. No error where there is none."""

    async def list(self) -> dict[str, fleet.Hosting]:
        """Every hosted worker by id."""

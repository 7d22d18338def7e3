"""No host: on Kubernetes the operator owns the workers, and the controller only looks and tells."""

from __future__ import annotations

from collections.abc import Sequence

from controller.policy import fleet
from penstock.runtime import errors
from workers.hosting import spec

REFUSAL = (
    "this controller keeps no workers (host none); on Kubernetes the operator does: "
    "`kubectl scale modeldeployment/NAME --replicas N`, `kubectl delete pod NAME`; with the chart's agents.tls a worker is "
    "drained from here too"
)


class NoHost:
    """See `port.WorkerHost`. It hosts nothing, and refuses to start anything."""

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing to leave."""

    async def start_workers(self, specs: Sequence[spec.WorkerSpec]) -> None:
        """Raises `TerminalError`."""
        raise errors.TerminalError(REFUSAL)

    async def stop_worker(self, worker_id: str) -> None:
        """Raises `TerminalError`."""
        raise errors.TerminalError(REFUSAL)

    async def list(self) -> dict[str, fleet.Hosting]:
        """Nothing."""
        return {}

"""What a registry does, whatever holds it."""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

from penstock.api import types

# `expire` looks through the leases about twice a second in every gateway and controller. Where nobody did for this
# long, the registry itself was away or frozen, so the holders could not renew either.
SWEEP_GAP_S = 2.0
# What leases get in that case: a whole lease and 2 s more.
SWEEP_GRACE_S = 5.0
# A node whose agent does not renew is shown as silent for so long, and then forgotten.
NODE_KEPT_S = 600.0


@dataclasses.dataclass(frozen=True)
class Change:
    """One entry of the registry's log. `record` is there with a put."""

    op: Literal["put", "del", "expire"]
    worker_id: str
    record: types.WorkerRecord | None = None


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Every worker, and the place in the log up to which it is true."""

    workers: list[types.RegisteredWorker]
    cursor: str


class Registry(Protocol):
    """All methods raise `RetryableError` while the registry cannot be reached."""

    async def next_incarnation(self) -> int:
        """A number above every one given before, also over a restart of an empty Redis (it follows its clock)."""

    async def register(self, record: types.WorkerRecord, lease_s: float) -> None:
        """Writes the record and starts its lease. Raises `FencedError` where a newer incarnation of the id is there."""

    async def renew(self, worker_id: str, incarnation: int, lease_s: float) -> types.WorkerState | None:
        """Extends the lease; the state that is registered, which another may have set to draining.

        None: no such registration (any more); register again.
        """

    async def set_state(self, worker_id: str, incarnation: int | None, state: types.WorkerState) -> bool:
        """Changes the state; incarnation None means whichever is there.

        False where there is none, or where it drains and `state` is another: a drain is not taken back.
        """

    async def set_speed(self, worker_id: str, incarnation: int, speed: types.EngineSpeed) -> bool:
        """Changes the speed that gateways predict with. False where this incarnation is not registered."""

    async def deregister(self, worker_id: str, incarnation: int) -> bool:
        """Removes the registration where it is this incarnation's."""

    async def expire(self) -> list[str]:
        """Removes the workers and gateways whose lease has ended; ids of the workers.

        Where nobody called this for `SWEEP_GAP_S`, it removes nothing and extends what has ended by `SWEEP_GRACE_S`.
        """

    async def snapshot(self) -> list[types.RegisteredWorker]:
        """Every worker with what is left of its lease (0 where it has ended and was not removed yet)."""

    async def snapshot_at(self) -> Snapshot:
        """A snapshot with the cursor from which `changes` goes on."""

    async def changes(self, cursor: str, wait_s: float) -> tuple[list[Change], str]:
        """Changes after `cursor`, waiting up to `wait_s` for the first, and the cursor behind them."""

    async def put_gateway(self, record: types.GatewayRecord, lease_s: float) -> None:
        """Writes a gateway's record and renews its lease."""

    async def drop_gateway(self, gateway_id: str) -> None:
        """Removes a gateway."""

    async def gateways(self) -> list[types.RegisteredGateway]:
        """The gateways whose lease has not ended."""

    async def put_node(self, record: types.NodeRecord, lease_s: float) -> None:
        """Writes a node's record and renews its lease."""

    async def drop_node(self, node_id: str) -> None:
        """Removes a node: its agent has ended as it should."""

    async def nodes(self) -> list[types.RegisteredNode]:
        """The nodes, also those whose agents have been silent for less than `NODE_KEPT_S`."""

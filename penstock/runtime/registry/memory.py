"""The registry in one process: the twin of the Redis one, for tests and for processes that need no Redis."""

from __future__ import annotations

import asyncio

from penstock.api import types
from penstock.runtime import clock as clocks
from penstock.runtime import errors
from penstock.runtime.registry import port


class MemoryRegistry:
    """See `port.Registry`. `available = False` makes every method raise, as a Redis that is away does."""

    def __init__(self, clock: clocks.Clock, node_kept_s: float = port.NODE_KEPT_S) -> None:
        self._clock, self._node_kept_s = clock, node_kept_s
        self._workers: dict[str, types.WorkerRecord] = {}
        self._lease_end_s: dict[str, float] = {}
        self._gateways: dict[str, types.GatewayRecord] = {}
        self._gateway_end_s: dict[str, float] = {}
        self._nodes: dict[str, types.NodeRecord] = {}
        self._node_end_s: dict[str, float] = {}
        self._log: list[port.Change] = []
        self._changed = asyncio.Event()
        self._incarnation = 0
        self._swept_s: float | None = None
        self.available = True

    def wipe(self) -> None:
        """Forgets everything, as a Redis without a disk does when it restarts."""
        tables = (
            self._workers, self._lease_end_s, self._gateways, self._gateway_end_s, self._nodes, self._node_end_s,
        )  # fmt: skip
        for table in tables:
            table.clear()
        self._swept_s = None

    async def next_incarnation(self) -> int:
        """See the port."""
        self._reach()
        self._incarnation = max(self._incarnation + 1, int(self._clock.now_s() * 1000))
        return self._incarnation

    async def register(self, record: types.WorkerRecord, lease_s: float) -> None:
        """See the port."""
        self._reach()
        present = self._workers.get(record.id)
        if present is not None and present.incarnation > record.incarnation:
            raise errors.FencedError(
                f"worker {record.id}: incarnation {record.incarnation} is older than {present.incarnation}, "
                "which is registered"
            )
        self._lease_end_s[record.id] = self._clock.monotonic_s() + lease_s
        if present != record:
            self._workers[record.id] = record
            self._append(port.Change("put", record.id, record))

    async def renew(self, worker_id: str, incarnation: int, lease_s: float) -> types.WorkerState | None:
        """See the port."""
        self._reach()
        if not self._holds(worker_id, incarnation):
            return None
        self._lease_end_s[worker_id] = self._clock.monotonic_s() + lease_s
        return self._workers[worker_id].state

    async def set_state(self, worker_id: str, incarnation: int | None, state: types.WorkerState) -> bool:
        """See the port."""
        self._reach()
        present = self._workers.get(worker_id)
        if present is None or (incarnation is not None and present.incarnation != incarnation):
            return False
        if present.state == state:
            return True
        if present.state is types.WorkerState.DRAINING:
            return False
        self._workers[worker_id] = present.model_copy(update={"state": state})
        self._append(port.Change("put", worker_id, self._workers[worker_id]))
        return True

    async def set_speed(self, worker_id: str, incarnation: int, speed: types.EngineSpeed) -> bool:
        """See the port."""
        self._reach()
        if not self._holds(worker_id, incarnation):
            return False
        present = self._workers[worker_id]
        if present.speed != speed:
            self._workers[worker_id] = present.model_copy(update={"speed": speed})
            self._append(port.Change("put", worker_id, self._workers[worker_id]))
        return True

    async def deregister(self, worker_id: str, incarnation: int) -> bool:
        """See the port."""
        self._reach()
        if not self._holds(worker_id, incarnation):
            return False
        self._remove("del", worker_id)
        return True

    async def expire(self) -> list[str]:
        """See the port."""
        self._reach()
        now_s = self._clock.monotonic_s()
        gap = self._swept_s is None or now_s - self._swept_s > port.SWEEP_GAP_S
        self._swept_s = now_s
        gone = sorted(name for name, end_s in self._lease_end_s.items() if end_s <= now_s)
        if gap:
            for name in gone:
                self._lease_end_s[name] = now_s + port.SWEEP_GRACE_S
            return []
        for name in gone:
            self._remove("expire", name)
        for name in [name for name, end_s in self._gateway_end_s.items() if end_s <= now_s]:
            del self._gateways[name], self._gateway_end_s[name]
        return gone

    async def snapshot(self) -> list[types.RegisteredWorker]:
        """See the port."""
        return (await self.snapshot_at()).workers

    async def snapshot_at(self) -> port.Snapshot:
        """See the port."""
        self._reach()
        now_s = self._clock.monotonic_s()
        workers = [
            types.RegisteredWorker(record=record, lease_left_s=max(0.0, self._lease_end_s[name] - now_s))
            for name, record in sorted(self._workers.items())
        ]
        return port.Snapshot(workers, str(len(self._log)))

    async def changes(self, cursor: str, wait_s: float) -> tuple[list[port.Change], str]:
        """See the port."""
        self._reach()
        start = int(cursor)
        if start >= len(self._log):
            self._changed.clear()
            waiters = {
                asyncio.ensure_future(self._changed.wait()),
                asyncio.ensure_future(self._clock.sleep(wait_s)),
            }
            try:
                await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for waiter in waiters:
                    waiter.cancel()
            self._reach()
        return self._log[start:], str(max(start, len(self._log)))

    async def put_gateway(self, record: types.GatewayRecord, lease_s: float) -> None:
        """See the port."""
        self._reach()
        self._gateways[record.id] = record
        self._gateway_end_s[record.id] = self._clock.monotonic_s() + lease_s

    async def drop_gateway(self, gateway_id: str) -> None:
        """See the port."""
        self._reach()
        self._gateways.pop(gateway_id, None)
        self._gateway_end_s.pop(gateway_id, None)

    async def gateways(self) -> list[types.RegisteredGateway]:
        """See the port."""
        self._reach()
        now_s = self._clock.monotonic_s()
        return [
            types.RegisteredGateway(record=record, lease_left_s=self._gateway_end_s[name] - now_s)
            for name, record in sorted(self._gateways.items())
            if self._gateway_end_s[name] > now_s
        ]

    async def put_node(self, record: types.NodeRecord, lease_s: float) -> None:
        """See the port."""
        self._reach()
        self._nodes[record.id] = record
        now_s = self._clock.monotonic_s()
        self._node_end_s[record.id] = now_s + lease_s
        for name in [name for name, end_s in self._node_end_s.items() if end_s <= now_s - self._node_kept_s]:
            del self._nodes[name], self._node_end_s[name]

    async def drop_node(self, node_id: str) -> None:
        """See the port."""
        self._reach()
        self._nodes.pop(node_id, None)
        self._node_end_s.pop(node_id, None)

    async def nodes(self) -> list[types.RegisteredNode]:
        """See the port."""
        self._reach()
        now_s = self._clock.monotonic_s()
        lefts = {name: end_s - now_s for name, end_s in self._node_end_s.items()}
        return [
            types.RegisteredNode(record=record, lease_left_s=max(0.0, lefts[name]), silent_s=max(0.0, -lefts[name]))
            for name, record in sorted(self._nodes.items())
            if lefts[name] > -self._node_kept_s
        ]

    def _reach(self) -> None:
        if not self.available:
            raise errors.RetryableError("registry: not available")

    def _holds(self, worker_id: str, incarnation: int) -> bool:
        present = self._workers.get(worker_id)
        return present is not None and present.incarnation == incarnation

    def _remove(self, op: str, worker_id: str) -> None:
        del self._workers[worker_id], self._lease_end_s[worker_id]
        self._append(port.Change("expire" if op == "expire" else "del", worker_id))

    def _append(self, change: port.Change) -> None:
        self._log.append(change)
        self._changed.set()

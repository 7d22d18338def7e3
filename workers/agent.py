"""Beside every engine: registers it, keeps its lease, takes it out of routing, drains it.

Starting -> (the engine answers) ready -> draining -> gone. While the registry is away the agent goes on trying and the
engine goes on serving. An agent that is fenced by a newer incarnation of its worker stops.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket

from penstock.api import types
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, registry, tasks
from workers.hosting import engine, spec

_POLL_S = 0.05


class WorkerAgent:
    """Runs one engine under one registration. `failure` says why it ended by itself, None while it has not."""

    def __init__(
        self, worker: spec.WorkerSpec, runner: engine.Engine, store: registry.Registry, clock: clocks.Clock
    ) -> None:
        self._spec, self._engine, self._registry, self._clock = worker, runner, store, clock
        self._log = logs.get("worker")
        self._task: asyncio.Task[None] | None = None
        self._drain: asyncio.Task[None] | None = None
        # When open streams are cut, on the monotonic clock.
        self._drain_until_s = math.inf
        self._engine_stopped = False
        self.record: types.WorkerRecord | None = None
        # What the registry was last told; where it differs from `record`, it is told again.
        self._announced: types.WorkerRecord | None = None
        self.ended = asyncio.Event()
        self.failure: str | None = None
        # Port of the agent's gRPC API where it serves one; told with the registration.
        self.control_port: int | None = None

    async def start(self) -> None:
        """Registers as starting, starts the engine, registers as ready.

        Raises what the engine raises (nothing stays registered then), and `RetryableError` without a registry.
        """
        incarnation = await self._registry.next_incarnation()
        if self._drain is not None:
            # Asked to go before it was anybody: nothing was registered, and nothing is.
            return
        # A port of zero is none yet; the endpoint is set before anything may be sent there.
        self.record = types.WorkerRecord(
            id=self._spec.id,
            incarnation=incarnation,
            deployment=self._spec.deployment,
            model=self._spec.model,
            role=self._spec.role,
            endpoint=types.Endpoint(host=self._spec.host, port=1),
            state=types.WorkerState.STARTING,
            engine=self._spec.engine.kind,
            simulated=self._spec.engine.kind == "sim",
            pid=os.getpid(),
            node=socket.gethostname(),
            started_at_s=self._clock.now_s(),
            revision=self._spec.revision,
            control_port=self.control_port,
        )
        await self._announce()
        if self._drain is not None:
            # The drain may have ended while it was registered.
            await self._drain
            await self._deregister()
            return
        self._task = asyncio.create_task(self._keep(), name="worker-lease")
        try:
            info = await self._engine.start()
        except BaseException:
            await self._leave()
            raise
        if self._drain is not None:
            # Asked to go before the engine answered: it never takes traffic.
            return
        self.record = self.record.model_copy(update=_described(info))
        try:
            await self._announce()
        except errors.RetryableError as exc:
            self._log.warning("ready_not_announced", worker=self._spec.id, reason=str(exc))
        self._log.info(
            "worker_ready", worker=self._spec.id, incarnation=incarnation, port=info.port, engine=info.engine
        )

    async def drain(self, drain_s: float | None = None) -> None:
        """Leaves routing, lets every request finish (at most `drain_s`), deregisters, stops the engine. Idempotent."""
        await asyncio.shield(self.begin_drain(drain_s))

    def begin_drain(self, drain_s: float | None = None) -> asyncio.Task[None]:
        """As `drain`, without waiting for its end. Of several deadlines the earliest holds."""
        limit_s = self._spec.drain_s if drain_s is None else drain_s
        self._drain_until_s = min(self._drain_until_s, self._clock.monotonic_s() + limit_s)
        if self._drain is None:
            self._drain = asyncio.create_task(self._drained(), name="worker-drain")
        return self._drain

    @property
    def drain_left_s(self) -> float | None:
        """Seconds until open streams are cut; None where it does not drain."""
        return None if self._drain is None else max(0.0, self._drain_until_s - self._clock.monotonic_s())

    async def load(self) -> int | None:
        """Requests that the engine has; None while it cannot be asked."""
        return None if self._engine_stopped else await self._engine.load()

    async def stop(self) -> None:
        """Ends at once: deregisters, stops the engine."""
        await self._leave()
        await self._stop_engine(0.0)

    async def healthy(self) -> bool:
        """Whether the engine runs and its registration was not taken over, as `_keep` has found it last."""
        return not self.ended.is_set()

    async def _drained(self) -> None:
        began_s = self._clock.monotonic_s()
        self._log.info("worker_draining", worker=self._spec.id, limit_s=self._drain_until_s - began_s)
        # An engine that was never told to gateways has nothing to finish, and may take minutes to answer.
        serves = self.record is not None and self.record.state is not types.WorkerState.STARTING
        if self.record is not None:
            self.record = self.record.model_copy(update={"state": types.WorkerState.DRAINING})
            try:
                await self._announce()
            except errors.PenstockError as exc:
                # Gateways then learn of it when the engine refuses connections; they retry what has no first byte.
                self._log.warning("drain_not_announced", worker=self._spec.id, reason=str(exc))
        if serves:
            await self._clock.sleep(self._spec.settle_s)
        while serves and self._clock.monotonic_s() < self._drain_until_s and not await self._engine.ended():
            # Unknown is not zero: an engine that cannot be asked may still be answering.
            if await self._engine.load() == 0:
                break
            await self._clock.sleep(_POLL_S)
        await self._leave()
        await self._stop_engine(1.0)
        self._log.info("worker_drained", worker=self._spec.id, duration_s=round(self._clock.monotonic_s() - began_s, 2))
        self._end(None)

    async def _keep(self) -> None:
        """Renews the lease, registers again where it is gone, watches the engine."""
        while True:
            await self._clock.sleep(self._spec.renew_s)
            record = self.record
            if record is None:
                return
            try:
                renewed = await self._registry.renew(record.id, record.incarnation, self._spec.lease_s)
                if renewed is types.WorkerState.DRAINING and self._spec.drains_by_registry:
                    self.begin_drain()
                elif not renewed or self._announced != self.record:
                    await self._announce()
            except errors.FencedError as exc:
                self._log.error("worker_fenced", worker=self._spec.id, reason=str(exc))
                self._end(str(exc))
                await self._stop_engine(0.0)
                return
            except errors.PenstockError as exc:
                self._log.warning("lease_not_renewed", worker=self._spec.id, reason=str(exc))
            if record.state is not types.WorkerState.STARTING and await self._gone():
                self._log.error("engine_died", worker=self._spec.id)
                await self._deregister()
                self._end("the engine ended")
                return

    async def _gone(self) -> bool:
        """Whether nothing more is to be had of the engine: one that drains and stalls may have streams to finish."""
        return await self._engine.ended() if self._drain is not None else not await self._engine.alive()

    async def _announce(self) -> None:
        # Read here, not before the last await: the state may have moved on.
        record = self.record
        assert record is not None
        await self._registry.register(record, self._spec.lease_s)
        self._announced = record

    async def _leave(self) -> None:
        if self._task is not None:
            await tasks.cancel([self._task])
        await self._deregister()

    async def _deregister(self) -> None:
        if self.record is None:
            return
        try:
            await self._registry.deregister(self.record.id, self.record.incarnation)
        except errors.PenstockError as exc:
            self._log.warning("not_deregistered", worker=self._spec.id, reason=str(exc))

    async def _stop_engine(self, drain_s: float) -> None:
        if not self._engine_stopped:
            self._engine_stopped = True
            await self._engine.stop(drain_s)

    def _end(self, failure: str | None) -> None:
        if not self.ended.is_set():
            self.failure = failure
            self.ended.set()


def _described(info: engine.EngineInfo) -> dict[str, object]:
    return {
        "endpoint": types.Endpoint(host=info.host, port=info.port),
        "state": types.WorkerState.READY,
        "engine": info.engine,
        "engine_version": info.version,
        "simulated": info.simulated,
        "capacity": info.capacity,
        "speed": info.speed,
        "kv_events": info.kv_events,
        "kv_replay": info.kv_replay,
        "pid": info.pid or os.getpid(),
    }

"""What goes wrong in a simulation, and how gateways find out: as the data plane, the prober and the registry do it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from penstock.api import types as api
from router.dataplane import gateway
from router.server import prober
from simulator import cluster, exchange, fleet, gateways, scenario, worker
from workers.engine import engine

# How long a registration outlives its worker (docs/architecture.md, "The registry").
LEASE_S = 3.0


class Faults:
    """Makes the scenario's faults happen and lets the fleet react."""

    def __init__(
        self,
        played: cluster.Cluster,
        stream: exchange.Stream,
        told: scenario.Scenario,
    ) -> None:
        self._cluster = played
        self._stream = stream
        self._cold = told.cold_start
        self._rng = random.Random(f"{told.seed}/faults")
        self._silence_s = gateway.Limits().silence_s
        # Gateways that already count the silence of a worker.
        self._watched: set[tuple[str, str]] = set()
        # What the registry said while a gateway was cut off.
        self._missed: dict[str, list[Callable[[gateways.Gateway], None]]] = {}
        self._hung_s: dict[str, float] = {}
        played.on_silence = self._watch
        acts: dict[str, Callable[[scenario.Fault, int], None]] = {
            "kill": self._kill,
            "slow": self._slow,
            "slow-link": self._slow_link,
            "hang": self._hang,
            "drain": self._drain,
            "join": self._join,
            "partition": self._partition,
            "event-loss": self._lose,
        }
        for fault in told.faults:
            played.at(fault.at_s, acts[fault.kind], fault)

    @property
    def _now_s(self) -> float:
        return self._cluster.clock.now_s

    def _worker(self, number: int) -> worker.Worker:
        return self._cluster.workers[f"w-{number}"]

    def _tell(self, act: Callable[[gateways.Gateway], None]) -> None:
        """What the registry says reaches every gateway that is not cut off; the others hear it later."""
        for link in self._stream.links:
            if link.cut_off:
                self._missed.setdefault(link.door.name, []).append(act)
            else:
                act(link.door)

    # Engines that die, and come back.

    def _kill(self, fault: scenario.Fault, _: int) -> None:
        assert isinstance(fault, scenario.Kill)
        there = self._worker(fault.worker)
        if not there.ready:
            return
        lost = list(there.calls)
        there.stop(self._now_s)
        for call in lost:
            self._cluster.lost(call, there)
        if fault.restart:
            there.started_s = self._now_s
            self._cluster.at(self._now_s + self._cold_start_s(), self._restarted, there)
        self._cluster.at(self._now_s + LEASE_S, self._lapsed, there, there.record.incarnation)

    def _cold_start_s(self) -> float:
        return self._cold.median_s * math.exp(self._cold.sigma * self._rng.gauss(0.0, 1.0))

    def _lapsed(self, there: worker.Worker, incarnation: int) -> None:
        if there.record.incarnation == incarnation:
            self._tell(lambda door: door.remove(there.id))

    def _restarted(self, there: worker.Worker, _: int) -> None:
        record = there.record.model_copy(update={"incarnation": there.record.incarnation + 1})
        there.start(fleet.another_engine(there), record)
        self._tell(lambda door: door.upsert(record))

    # Workers that come, and that leave.

    def _join(self, fault: scenario.Fault, _: int) -> None:
        assert isinstance(fault, scenario.Join)
        workers = self._cluster.workers
        for _number in range(fault.workers):
            there = fleet.like(self._worker(fault.like), len(workers))
            workers[there.id] = there
            if self._cluster.handover is not None:
                self._cluster.handover.add(there)
            there.started_s = self._now_s
            self._cluster.at(self._now_s + self._cold_start_s(), self._joined, there)

    def _joined(self, there: worker.Worker, _: int) -> None:
        there.ready = True
        self._tell(lambda door: door.upsert(there.record))

    def _drain(self, fault: scenario.Fault, _: int) -> None:
        assert isinstance(fault, scenario.Drain)
        there = self._worker(fault.worker)
        record = there.record.model_copy(update={"state": api.WorkerState.DRAINING})
        there.record = record
        self._tell(lambda door: door.upsert(record))
        self._cluster.on_empty = self._left
        if not there.calls:
            self._left(there)

    def _left(self, there: worker.Worker) -> None:
        if there.record.state is api.WorkerState.DRAINING and there.ready:
            there.stop(self._now_s)
            self._tell(lambda door: door.remove(there.id))

    # Engines that are slow or hang.

    def _slow(self, fault: scenario.Fault, _: int) -> None:
        assert isinstance(fault, scenario.Slow)
        there = self._worker(fault.worker)
        self._set_speed(there, fault.factor)
        self._cluster.at(self._now_s + fault.for_s, self._recovered, (there, there.engine, fault.factor))

    def _set_speed(self, there: worker.Worker, factor: float) -> None:
        if not there.hung and there.cut(self._now_s, whole=True):
            self._cluster.schedule(there)
        there.engine.slowdown *= factor

    def _recovered(self, what: tuple[worker.Worker, engine.Engine, float], _: int) -> None:
        there, slowed, factor = what
        if there.engine is slowed:
            self._set_speed(there, 1.0 / factor)

    def _slow_link(self, fault: scenario.Fault, _: int) -> None:
        assert isinstance(fault, scenario.SlowLink)
        there = self._worker(fault.worker)
        self._set_link(there, fault.factor)
        self._cluster.at(self._now_s + fault.for_s, self._link_recovered, (there, fault.factor))

    def _set_link(self, there: worker.Worker, factor: float) -> None:
        assert self._cluster.handover is not None
        there.link_factor *= factor
        self._cluster.handover.link_changed(there)

    def _link_recovered(self, what: tuple[worker.Worker, float], _: int) -> None:
        there, factor = what
        self._set_link(there, 1.0 / factor)

    def _hang(self, fault: scenario.Fault, _: int) -> None:
        assert isinstance(fault, scenario.Hang)
        there = self._worker(fault.worker)
        if there.hung or not there.ready:
            return
        there.cut(self._now_s, whole=True)
        # What is under way does not end until the engine goes on.
        there.generation += 1
        there.hung = True
        self._hung_s[there.id] = self._now_s
        for door in self._cluster.gateways:
            if any(call.gateway is door for call in there.calls):
                self._watch(door, there)
        self._cluster.at(self._now_s + fault.for_s, self._resumed, there, there.record.incarnation)

    def _resumed(self, there: worker.Worker, incarnation: int) -> None:
        if not there.hung or there.record.incarnation != incarnation:
            return
        there.hung = False
        if there.idle:
            self._cluster.begin(there)
        else:
            there.end_s += self._now_s - self._hung_s[there.id]
            self._cluster.schedule(there)
        for door in self._cluster.gateways:
            self._cluster.at(self._now_s + prober.SUSPECT_INTERVAL_S, self._readmit, (door, there), incarnation)

    def _readmit(self, what: tuple[gateways.Gateway, worker.Worker], incarnation: int) -> None:
        door, there = what
        backend = door.fleet.backends.get(there.id)
        if there.ready and not there.hung and backend is not None and backend.record.incarnation == incarnation:
            door.core.readmit(backend)

    def _watch(self, door: gateways.Gateway, there: worker.Worker) -> None:
        """A gateway has requests on a silent worker: it asks its health, and gives it up after some probes."""
        key = (door.name, there.id)
        if key not in self._watched:
            self._watched.add(key)
            given_up_s = self._silence_s + gateways.TICK_S + prober.SILENT_PROBES * prober.PROBE_TIMEOUT_S
            self._cluster.at(self._now_s + given_up_s, self._give_up, (door, there))

    def _give_up(self, what: tuple[gateways.Gateway, worker.Worker], _: int) -> None:
        door, there = what
        self._watched.discard((door.name, there.id))
        if not there.hung:
            return
        for call in [each for each in there.calls if each.gateway is door]:
            self._cluster.give_up(call, there)

    # Gateways that are cut off, and messages that are lost.

    def _partition(self, fault: scenario.Fault, _: int) -> None:
        assert isinstance(fault, scenario.Partition)
        link = self._stream.links[fault.gateway]
        link.cut_off = True
        self._cluster.at(self._now_s + fault.for_s, self._healed, link)

    def _healed(self, link: exchange.Link, _: int) -> None:
        link.reconnect()
        for act in self._missed.pop(link.door.name, []):
            act(link.door)

    def _lose(self, fault: scenario.Fault, _: int) -> None:
        assert isinstance(fault, scenario.EventLoss)
        self._stream.loss = fault.share
        self._cluster.at(self._now_s + fault.for_s, self._found)

    def _found(self, _: object, __: int) -> None:
        self._stream.loss = 0.0

"""The endpoints that this gateway knows: slots, models, load, health, and the prefix index over them.

A slot is a small number that an endpoint keeps while it is known; sets of endpoints are ints with one bit per slot. Load
is kept in coarse classes (powers of two), so that the least loaded of any set is found without a look at every endpoint.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable

from penstock.api.types import EngineSpeed, WorkerRecord, WorkerState
from router.dataplane import upstream
from router.index import blocks, pins, prefix
from router.policy import types

BUCKETS = 48
# The gateway's coarse time: limits, probes and ages count in it.
TICK_S = 0.25
# Used where an engine's speed is unknown: Llama-3.1-8B on one H100 (docs/routing.md). Only ratios between endpoints matter
# for placement, and they are equal while all are unknown.
ASSUMED_SPEED = EngineSpeed(base_ms=10.0, ms_per_token=0.022, ms_per_seq=0.02)
DEFAULT_BYTES_PER_TOKEN = 4.0
_RATIO_WEIGHT = 0.02
# Length of an answer until answers have been seen, and the weight of each.
DEFAULT_OUTPUT_TOKENS = 256.0
_OUTPUT_WEIGHT = 0.02


class Health(enum.StrEnum):
    """Whether requests are sent to an endpoint."""

    OK = "ok"
    EJECTED = "ejected"
    DRAINING = "draining"
    STARTING = "starting"


class Backend(types.Endpoint):
    """An endpoint with its record, its connections and its health."""

    __slots__ = (
        "active",
        "connections",
        "epoch",
        "health",
        "last_byte_tick",
        "pins",
        "pools",
        "probe_after_tick",
        "record",
    )

    def __init__(self, record: WorkerRecord, slot: int, connections: upstream.Connections) -> None:
        super().__init__(record.id, slot, record.speed or ASSUMED_SPEED)
        self.record = record
        self.connections = connections
        self.health = Health.OK
        self.pools: list[ModelPool] = []
        # Exchanges that are in flight here from this gateway.
        self.active: set[object] = set()
        # Blocks that the requests from here hold; counted only while they may fill the cache.
        self.pins: pins.Pins | None = None
        self.last_byte_tick = 0
        self.probe_after_tick = 0


class ModelPool:
    """The endpoints that serve one model name, and what is known of that model's tokens."""

    __slots__ = ("bits", "bytes_per_token", "followers_tick", "members", "model", "observed", "seed", "state")

    def __init__(self, model: str, seed: int, shortlist: Callable[[int, int], list[types.Endpoint]]) -> None:
        self.model = model
        self.seed = seed
        self.state = seed
        # All members, and the bit set of those that may take a request.
        self.members: dict[str, Backend] = {}
        self.bits = 0
        # When it was last seen how much comes to them.
        self.followers_tick = 0
        self.bytes_per_token = DEFAULT_BYTES_PER_TOKEN
        self.observed = types.Observed((), 0, (), [], self.tokens_at, shortlist, output_tokens=DEFAULT_OUTPUT_TOKENS)

    def tokens_at(self, count: int) -> int:
        """Tokens that the first `count` blocks of a prompt stand for."""
        return int(blocks.end_of(count) / self.bytes_per_token)

    def learn_ratio(self, prompt_bytes: int, prompt_tokens: int) -> None:
        """Keeps the running ratio of text bytes to tokens, from what an engine counted."""
        if prompt_tokens >= 16 and prompt_bytes >= 64:
            ratio = min(64.0, max(0.5, prompt_bytes / prompt_tokens))
            self.bytes_per_token += _RATIO_WEIGHT * (ratio - self.bytes_per_token)

    def learn_output(self, output_tokens: int) -> None:
        """Keeps the running mean of the length of answers."""
        observed = self.observed
        observed.output_tokens += _OUTPUT_WEIGHT * (output_tokens - observed.output_tokens)


class Fleet:
    """All endpoints by id, slot and model. One event loop owns it."""

    def __init__(self, index: prefix.PrefixIndex, connect: Callable[[WorkerRecord], upstream.Connections]) -> None:
        self.index = index
        self.backends: dict[str, Backend] = {}
        self.pools: dict[str, ModelPool] = {}
        self.by_slot: list[Backend | None] = []
        self.buckets = [0] * BUCKETS
        self.rotor = 0
        # Endpoints whose load this gateway changed since somebody last looked; `server.sharing` empties it.
        self.changed: set[types.Endpoint] = set()
        # Called with the first of them.
        self.on_changed: Callable[[], None] | None = None
        self._connect = connect
        self._free_slots: list[int] = []

    def upsert(self, record: WorkerRecord) -> Backend:
        """Adds an endpoint or takes over its new record. A new incarnation starts with an empty cache."""
        known = self.backends.get(record.id)
        if known is not None and (known.record.incarnation, known.record.endpoint) == (
            record.incarnation,
            record.endpoint,
        ):
            return self._update(known, record)
        if known is not None:
            self.remove(record.id)
        slot = self._free_slots.pop() if self._free_slots else len(self.by_slot)
        backend = Backend(record, slot, self._connect(record))
        if slot == len(self.by_slot):
            self.by_slot.append(backend)
        else:
            self.by_slot[slot] = backend
        self.backends[record.id] = backend
        self.buckets[0] |= backend.bit
        self.index.add_endpoint(slot, None)
        self._join(backend)
        self._set_capacity(backend)
        self.set_health(backend, _health_of(record.state))
        return backend

    def _update(self, backend: Backend, record: WorkerRecord) -> Backend:
        before = backend.record
        backend.record = record
        if before.speed != record.speed:
            backend.set_speed(record.speed or ASSUMED_SPEED)
        if before.capacity != record.capacity:
            self._set_capacity(backend)
        if (before.model, before.adapters) != (record.model, record.adapters):
            self._leave(backend)
            self._join(backend)
        if before.state != record.state:
            self.set_health(backend, _health_of(record.state))
        else:
            self._refresh(backend.pools)
        return backend

    def remove(self, endpoint_id: str) -> Backend | None:
        """Forgets an endpoint; what is in flight there goes on."""
        backend = self.backends.pop(endpoint_id, None)
        if backend is None:
            return None
        self.buckets[backend.bucket] &= ~backend.bit
        self._leave(backend)
        self.by_slot[backend.slot] = None
        self.index.remove_endpoint(backend.slot)
        self._free_slots.append(backend.slot)
        backend.connections.close_idle()
        return backend

    def set_health(self, backend: Backend, health: Health) -> None:
        """Changes whether requests go to an endpoint."""
        if (
            backend.health is health
            and backend.pools
            and backend.pools[0].bits & backend.bit == (backend.bit if health is Health.OK else 0)
        ):
            return
        backend.health = health
        self._refresh(backend.pools)

    def _join(self, backend: Backend) -> None:
        record = backend.record
        for name in (record.model, *record.adapters):
            pool = self.pools.get(name)
            if pool is None:
                pool = self.pools[name] = ModelPool(name, blocks.seed_of(name.encode()), self.shortlist)
            pool.members[backend.id] = backend
            backend.pools.append(pool)

    def _leave(self, backend: Backend) -> None:
        pools, backend.pools = backend.pools, []
        for pool in pools:
            pool.members.pop(backend.id, None)
            if not pool.members:
                self.pools.pop(pool.model, None)
        self._refresh(pools)

    def _refresh(self, pools: Iterable[ModelPool]) -> None:
        for pool in pools:
            ready = [member for member in pool.members.values() if member.health is Health.OK]
            pool.bits = sum(member.bit for member in ready)
            observed = pool.observed
            observed.endpoints = ready
            observed.bits = pool.bits
            observed.by_slot = self.by_slot

    def _set_capacity(self, backend: Backend) -> None:
        tokens = backend.record.capacity.kv_tokens
        ratio = backend.pools[0].bytes_per_token if backend.pools else DEFAULT_BYTES_PER_TOKEN
        self.index.set_capacity(backend.slot, None if tokens is None else int(tokens * ratio))
        backend.capacity_tokens = backend.free_tokens = float("inf") if tokens is None else float(tokens)

    def cached(self, backend: Backend, hashes: list[int]) -> None:
        """The endpoint has, or is about to compute, these blocks."""
        index = self.index
        index.insert(backend.slot, hashes)
        room_bytes, evicts = index.room_of(backend.slot)
        if room_bytes is not None and backend.pools:
            backend.free_tokens = room_bytes / backend.pools[0].bytes_per_token
            backend.evicts = evicts

    def touch(self, backend: types.Endpoint) -> None:
        """This gateway has changed an endpoint's load; nothing happens to one that is gone."""
        if self.by_slot[backend.slot] is not backend:
            return
        if not self.changed and self.on_changed is not None:
            self.on_changed()
        self.changed.add(backend)
        self.classify(backend)

    def classify(self, backend: types.Endpoint) -> None:
        """Puts an endpoint into the class of its present load, whoever changed it; one that is gone is left out."""
        if self.by_slot[backend.slot] is not backend:
            return
        load = backend.running + backend.peer_running
        load += int((backend.queued_tokens + backend.peer_queued_tokens) * backend.ms_per_token)
        bucket = load.bit_length()
        if bucket != backend.bucket:
            bit = backend.bit
            self.buckets[backend.bucket] &= ~bit
            self.buckets[bucket] |= bit
            backend.bucket = bucket

    def shortlist(self, bits: int, count: int) -> list[types.Endpoint]:
        """Up to `count` endpoints of the bit set, least loaded class first, equals in turn."""
        chosen: list[types.Endpoint] = []
        self.rotor = rotor = (self.rotor + 1) % max(1, len(self.by_slot))
        for bucket in self.buckets:
            here = bucket & bits
            if not here:
                continue
            later = here >> rotor << rotor
            for part in (later, here ^ later):
                while part:
                    low = part & -part
                    endpoint = self.by_slot[low.bit_length() - 1]
                    if endpoint is not None:
                        chosen.append(endpoint)
                        if len(chosen) == count:
                            return chosen
                    part ^= low
        return chosen


def _health_of(state: WorkerState) -> Health:
    if state is WorkerState.READY:
        return Health.OK
    return Health.DRAINING if state is WorkerState.DRAINING else Health.STARTING

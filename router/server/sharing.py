"""What gateways tell each other through one Redis stream: prompts that were placed, and load that is in flight.

Nothing waits for it inside a request. Each gateway numbers its batches; a gap in a peer's numbers means that something was
missed and the peer is asked for its whole index, as a gateway that starts asks one of the others. Load is absolute, so it
heals with the next batch, and it is forgotten when its sender falls silent.

Cost per gateway: one XADD per interval with traffic, and one XREAD for all peers; it grows with the fleet's request rate.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from typing import Any

import msgspec
from redis import exceptions

from penstock.api import wire
from penstock.runtime import clock as clocks
from penstock.runtime import logs
from penstock.runtime import redis as redis_link
from router.dataplane import fleet, gateway
from router.index import blocks
from router.server import degraded

HEARTBEAT_S = 0.5
READ_BLOCK_MS = 1_000
# Placements kept while Redis is away; beyond it peers get the whole index instead.
MAX_WAITING = 20_000
SNAPSHOT_TTL_S = 30
SNAPSHOT_WAIT_S = 3.0
_PIECES_AT_ONCE = 16


@dataclasses.dataclass
class Peer:
    """What is known of another gateway."""

    epoch: int
    seq: int
    heard_s: float
    # By endpoint: what it has in flight there, and on which backend that is counted.
    loads: dict[str, tuple[fleet.Backend, wire.EndpointLoad]]


class Sharing:
    """Sends this gateway's batches and takes in those of the others."""

    def __init__(
        self,
        owner: gateway.Gateway,
        link: redis_link.RedisLink,
        keys: wire.Keys,
        clock: clocks.Clock,
        health: degraded.Degraded,
        *,
        interval_s: float,
        peer_timeout_s: float,
    ) -> None:
        self._gateway = owner
        self._redis = link.client
        self._keys = keys
        self._clock = clock
        self._health = health
        self._interval_s = interval_s
        self._peer_timeout_s = peer_timeout_s
        self._log = logs.get("gateway")
        self._epoch = time.time_ns()
        self._seq = 0
        self._sent: dict[str, tuple[int, int, int, int]] = {}
        self._sent_s = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self._wants: str = ""
        # Peers whose whole index is lacking, one after the other: what they give comes by one list.
        self._lacking: dict[str, None] = {}
        self._catching_up = False
        # Set where there is something to tell.
        self._changed = asyncio.Event()
        self.peers: dict[str, Peer] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(wire.GatewayDelta).decode
        self._decode_report = msgspec.msgpack.Decoder(wire.KvReport).decode
        self._decode_piece = msgspec.msgpack.Decoder(wire.IndexPiece).decode

    async def start(self) -> None:
        """Starts to send and to follow. Peers answer with a snapshot as soon as they are heard."""
        self._gateway.placements = []
        self._gateway.fleet.on_changed = self._changed.set
        self._tasks = [
            asyncio.create_task(self._send_loop(), name="share-send"),
            asyncio.create_task(self._read_loop(), name="share-read"),
        ]

    async def stop(self) -> None:
        """Stops; the peers forget this gateway's load at once."""
        self._gateway.placements = None
        self._gateway.fleet.on_changed = None
        for task in [*self._tasks, *self._jobs]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._jobs, return_exceptions=True)
        goodbye = wire.GatewayDelta(wire.VERSION, self._gateway.id, self._epoch, self._seq + 1, [], [], True)
        with contextlib.suppress(exceptions.RedisError, OSError, TimeoutError):
            await self._add(goodbye)

    # Sending.

    async def _send_loop(self) -> None:
        while True:
            # At once where nothing was told for an interval: the less is unknown, the fewer gateways choose the same endpoint.
            due_s = self._sent_s + HEARTBEAT_S - self._clock.monotonic_s()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.001, due_s)):
                    await self._changed.wait()
            self._changed.clear()
            self._forget_silent()
            delta = self._batch()
            if delta is None:
                continue
            try:
                await self._add(delta)
            except (exceptions.RedisError, OSError, TimeoutError) as exc:
                self._health.set(degraded.SHARING_LOST, "Redis does not answer; routing on what this gateway knows")
                self._log.debug("share_failed", reason=str(exc))
                # Peers see the missing number and ask for the whole index.
                self._sent.clear()
                self._wants = self._wants or delta.wants_snapshot_of
                await self._clock.sleep(0.2)
            else:
                self._gateway.account.batches_sent += 1
                self._health.clear(degraded.SHARING_LOST)
            await self._clock.sleep(self._interval_s)

    async def _add(self, delta: wire.GatewayDelta) -> None:
        await self._redis.xadd(
            self._keys.gateway_deltas, {"d": self._encode(delta)}, maxlen=wire.DELTAS_MAXLEN, approximate=True
        )

    def _batch(self) -> wire.GatewayDelta | None:
        owner = self._gateway
        now_s = self._clock.monotonic_s()
        complete = now_s - self._sent_s >= HEARTBEAT_S
        placed = owner.placements or []
        loads = self._changed_loads(complete)
        if not (placed or loads or complete or self._wants):
            return None
        owner.placements = []
        if len(placed) > MAX_WAITING:
            self._seq += 1
            placed = placed[-MAX_WAITING:]
        placements = [
            wire.Placement(_name(backend), blocks.pack(hashes), prefill_ms) for backend, hashes, prefill_ms in placed
        ]
        self._seq += 1
        if complete:
            self._sent_s = now_s
        wants, self._wants = self._wants, ""
        return wire.GatewayDelta(wire.VERSION, owner.id, self._epoch, self._seq, placements, loads, complete, wants)

    def _changed_loads(self, complete: bool) -> list[wire.EndpointLoad]:
        """Loads that differ from what was sent; `complete` names every endpoint with something in flight."""
        sent = self._sent
        loads: list[wire.EndpointLoad] = []
        owner = self._gateway.fleet
        touched, owner.changed = owner.changed, set()
        now_ms = self._gateway.now_ms()
        for backend in owner.backends.values() if complete else touched:
            assert isinstance(backend, fleet.Backend)
            name = _name(backend)
            now = (backend.queued_tokens, backend.running, backend.kv_tokens, backend.waiting)
            more = (backend.own_wait_ms(now_ms), backend.fresh_tokens, int(backend.generated_tokens(now_ms)))
            if complete:
                if backend.running:
                    loads.append(wire.EndpointLoad(name, *now, *more))
            elif sent.get(name, (0, 0, 0, 0)) != now:
                loads.append(wire.EndpointLoad(name, *now, *more))
            if backend.running:
                sent[name] = now
            else:
                sent.pop(name, None)
        return loads

    # Taking in.

    async def _read_loop(self) -> None:
        streams = {
            self._keys.gateway_deltas.encode(): self._take,
            self._keys.kv_reports.encode(): self._take_report,
        }
        cursors: dict[Any, Any] = {}
        while True:
            try:
                for key in streams:
                    if key not in cursors:
                        cursors[key] = await self._tail(key)
                answer: Any = await self._redis.xread(cursors, count=256, block=READ_BLOCK_MS)
            except (exceptions.RedisError, OSError, TimeoutError) as exc:
                self._log.debug("share_read_failed", reason=str(exc))
                if isinstance(exc, exceptions.ResponseError):
                    cursors.clear()
                await self._clock.sleep(0.2)
                continue
            for key, rows in answer:
                for entry_id, fields in rows:
                    cursors[key] = entry_id
                    streams[key](fields.get(b"d", b""))

    async def _tail(self, key: bytes) -> str:
        """Id of a stream's last entry: what was before comes with a snapshot."""
        last: Any = await self._redis.xrevrange(key, count=1)
        return last[0][0].decode() if last else "0-0"

    def _take(self, raw: bytes) -> None:
        try:
            delta = self._decode(raw)
        except msgspec.MsgspecError as exc:
            self._log.warning("share_undecodable", reason=str(exc))
            return
        if delta.version != wire.VERSION or delta.source == self._gateway.id:
            return
        self._gateway.account.batches_taken += 1
        self._sequence(delta)
        self._apply_loads(delta)
        endpoints = self._gateway.fleet.backends
        for placement in delta.placements:
            backend = endpoints.get(placement.endpoint.rpartition("/")[0])
            if backend is not None and _name(backend) == placement.endpoint:
                backend.peer_busy_ms += placement.prefill_ms
                backend.arrived += 1.0
                self._gateway.fleet.cached(backend, blocks.unpack(placement.hashes))
        if delta.wants_snapshot_of == self._gateway.id:
            self._start(self._give_snapshot(delta.source))

    def _take_report(self, raw: bytes) -> None:
        """Corrects an endpoint's share of the index by what its engine's KV events came to."""
        try:
            report = self._decode_report(raw)
        except msgspec.MsgspecError as exc:
            self._log.warning("kv_report_undecodable", reason=str(exc))
            return
        backend = self._gateway.fleet.backends.get(report.endpoint.rpartition("/")[0])
        if report.version != wire.VERSION or backend is None or _name(backend) != report.endpoint:
            return
        self._gateway.account.kv_reports_taken += 1
        index = self._gateway.fleet.index
        if report.cleared:
            index.clear(backend.slot)
        if report.evicted_blocks and not report.approximate and backend.pools:
            tokens = report.resident_blocks * report.block_tokens
            index.bound(backend.slot, int(tokens * backend.pools[0].bytes_per_token))

    def _sequence(self, delta: wire.GatewayDelta) -> None:
        known = self.peers.get(delta.source)
        now_s = self._clock.monotonic_s()
        if known is None or known.epoch != delta.epoch:
            if known is not None:
                self._drop_loads(known)
            # A peer that just began has nothing to give; any other has an index that we lack.
            if known is None and delta.seq > 1:
                self._ask(delta.source)
            self.peers[delta.source] = Peer(delta.epoch, delta.seq, now_s, {})
            return
        if delta.seq > known.seq + 1:
            self._gateway.account.gaps += 1
            self._health.set(degraded.INDEX_GAP, f"missed batches of {delta.source}; asked it for its index")
            self._log.warning("share_gap", peer=delta.source, expected=known.seq + 1, got=delta.seq)
            self._ask(delta.source)
        known.seq = delta.seq
        known.heard_s = now_s

    def _ask(self, source: str) -> None:
        self._lacking[source] = None
        if not self._catching_up:
            self._catching_up = True
            self._start(self._catch_up())

    def _apply_loads(self, delta: wire.GatewayDelta) -> None:
        peer = self.peers[delta.source]
        endpoints = self._gateway.fleet
        if delta.loads_complete:
            named = {load.endpoint for load in delta.loads}
            gone = [wire.EndpointLoad(name, 0, 0, 0) for name in peer.loads if name not in named]
            changes = [*delta.loads, *gone]
        else:
            changes = delta.loads
        for load in changes:
            before = peer.loads.pop(load.endpoint, None)
            if before is not None:
                _shift(*before, -1)
                endpoints.classify(before[0])
            backend = endpoints.backends.get(load.endpoint.rpartition("/")[0])
            # One that is not known here yet is taken in with the next complete batch after it is.
            if load.running and backend is not None and _name(backend) == load.endpoint:
                _shift(backend, load, 1)
                peer.loads[load.endpoint] = (backend, load)
                endpoints.classify(backend)

    def _drop_loads(self, peer: Peer) -> None:
        for backend, load in peer.loads.values():
            _shift(backend, load, -1)
            self._gateway.fleet.classify(backend)
        peer.loads = {}

    def _forget_silent(self) -> None:
        now_s = self._clock.monotonic_s()
        for source, peer in list(self.peers.items()):
            if now_s - peer.heard_s > self._peer_timeout_s:
                self._drop_loads(peer)
                del self.peers[source]
                self._log.info("peer_silent", peer=source)

    # Snapshots.

    def _start(self, job: Any) -> None:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _give_snapshot(self, requester: str) -> None:
        index = self._gateway.fleet.index
        key = self._keys.snapshot(requester)
        named = [(_name(backend), backend) for backend in self._gateway.fleet.backends.values()]
        pieces: list[bytes] = []
        try:
            for name, backend in named:
                if self._gateway.fleet.backends.get(backend.id) is not backend:
                    continue
                packed = blocks.pack(index.export(backend.slot))
                pieces.append(self._encode(wire.IndexPiece(wire.VERSION, self._gateway.id, name, packed)))
                if len(pieces) >= _PIECES_AT_ONCE:
                    await self._push(key, pieces)
                    pieces = []
            pieces.append(self._encode(wire.IndexPiece(wire.VERSION, self._gateway.id, "", b"", True)))
            await self._push(key, pieces)
        except (exceptions.RedisError, OSError, TimeoutError) as exc:
            self._log.warning("snapshot_not_given", requester=requester, reason=str(exc))

    async def _push(self, key: str, pieces: list[bytes]) -> None:
        await self._redis.rpush(key, *pieces)
        await self._redis.expire(key, SNAPSHOT_TTL_S)

    async def _catch_up(self) -> None:
        try:
            while self._lacking:
                source = self._wants = next(iter(self._lacking))
                del self._lacking[source]
                self._changed.set()
                await self._take_snapshot(source)
            self._health.clear(degraded.INDEX_GAP)
        finally:
            self._catching_up = False

    async def _take_snapshot(self, source: str) -> None:
        key = self._keys.snapshot(self._gateway.id)
        deadline_s = self._clock.monotonic_s() + SNAPSHOT_WAIT_S
        try:
            while self._clock.monotonic_s() < deadline_s:
                answer: Any = await self._redis.blpop([key], timeout=1)
                if answer is None:
                    continue
                piece = self._decode_piece(answer[1])
                if piece.source != source:
                    continue
                if piece.last:
                    self._gateway.account.snapshots_taken += 1
                    self._log.info("snapshot_taken", peer=source)
                    return
                backend = self._gateway.fleet.backends.get(piece.endpoint.rpartition("/")[0])
                if backend is not None and _name(backend) == piece.endpoint:
                    self._gateway.fleet.index.load(backend.slot, blocks.unpack(piece.hashes))
                deadline_s = self._clock.monotonic_s() + SNAPSHOT_WAIT_S
        except (exceptions.RedisError, msgspec.MsgspecError, OSError, TimeoutError, ValueError) as exc:
            self._log.warning("snapshot_failed", peer=source, reason=str(exc))
            # Once more, when Redis is there again: the peer hears of it with our next batch.
            await self._clock.sleep(1.0)
            if source in self.peers:
                self._lacking[source] = None
            return
        # The peer is gone or busy: its next batches bring what matters from now on.
        self._log.warning("snapshot_not_answered", peer=source, waited_s=SNAPSHOT_WAIT_S)


def _name(backend: fleet.Backend) -> str:
    return wire.endpoint_key(backend.id, backend.record.incarnation)


def _shift(backend: fleet.Backend, load: wire.EndpointLoad, sign: int) -> None:
    backend.peer_queued_tokens += sign * load.queued_tokens
    backend.peer_running += sign * load.running
    backend.peer_kv_tokens += sign * load.kv_tokens
    backend.peer_fresh_tokens += sign * load.fresh_tokens
    backend.peer_generated_tokens += sign * load.generated_tokens
    backend.peer_waiting += sign * load.waiting
    # A sum of floats that come and go leaves a rest, which must not pass for a load.
    backend.peer_queued_ms = max(0.0, backend.peer_queued_ms + sign * load.queued_ms)

"""What gateways and workers tell each other through Redis, on the virtual clock.

Batches, loads, numbering, silence and reports are those of `router.server.sharing`; only the stream between them is the
simulation's: a batch takes a time to arrive, and a gateway may be cut off.
"""

from __future__ import annotations

import collections
import math
import types
import typing
from collections.abc import Callable

import msgspec

from penstock.api import wire
from router.server import sharing
from simulator import gateways, worker
from workers import kv_relay

HEARTBEAT_S = sharing.HEARTBEAT_S


class _Nobody:
    """Stands in for the log and the degraded modes: nobody reads them here."""

    def note(self, *words: object, **values: object) -> None:
        """Nothing."""

    set = clear = debug = info = warning = note


_NOBODY: typing.Any = _Nobody()


class Link(sharing.Sharing):
    """One gateway's end of the stream."""

    def __init__(
        self, door: gateways.Gateway, clock: gateways.Clock, interval_s: float, peer_timeout_s: float, shared: bool
    ) -> None:
        any_clock = typing.cast(typing.Any, clock)
        super().__init__(
            door.core,
            typing.cast(typing.Any, types.SimpleNamespace(client=None)),
            wire.Keys("simulated"),
            any_clock,
            _NOBODY,
            interval_s=interval_s,
            peer_timeout_s=peer_timeout_s,
        )
        self._log = _NOBODY
        # The present start of this gateway; the production's is the time of day.
        self._epoch = 1
        self.door = door
        self.cut_off = False
        # What came to the stream while this gateway could not read it.
        self.missed: collections.deque[bytes] = collections.deque(maxlen=wire.DELTAS_MAXLEN)
        self.on_gap: Callable[[Link, str], None] = lambda link, source: None
        if shared:
            door.core.placements = []

    def collect(self) -> bytes | None:
        """This gateway's next batch, or None where there is nothing to say or Redis does not answer."""
        self._forget_silent()
        delta = self._batch()
        if delta is None:
            return None
        if self.cut_off:
            # As production does: peers see the missing number and ask for the index.
            self._sent.clear()
            return None
        return self._encode(delta)

    def receive(self, raw: bytes) -> None:
        """A peer's batch."""
        if self.cut_off:
            self.missed.append(raw)
        else:
            self._take(raw)

    def reconnect(self) -> None:
        """Redis answers again: the stream is read from where it was left."""
        self.cut_off = False
        while self.missed:
            self._take(self.missed.popleft())

    def report(self, raw: bytes) -> None:
        """What a worker's KV events came to."""
        if not self.cut_off:
            self._take_report(raw)

    def take_index(self, other: Link) -> None:
        """A peer's whole index, as a snapshot brings it."""
        for worker_id, backend in self.door.fleet.backends.items():
            there = other.door.fleet.backends.get(worker_id)
            if there is not None and there.record.incarnation == backend.record.incarnation:
                self.door.fleet.index.load(backend.slot, other.door.fleet.index.export(there.slot))
        self.door.core.account.snapshots_taken += 1

    def _ask(self, source: str) -> None:
        self.on_gap(self, source)


class Stream:
    """Carries batches between gateways, and workers' reports to them. `at` calls something at a time."""

    def __init__(
        self,
        at: Callable[..., None],
        clock: gateways.Clock,
        links: list[Link],
        *,
        interval_s: float,
        delay_s: float,
        draw: Callable[[], float],
    ) -> None:
        self.links = links
        # Share of the batches and reports that are lost on their way.
        self.loss = 0.0
        self.batches = 0
        self._at = at
        self._clock = clock
        self._interval_s = interval_s
        self._delay_s = delay_s
        self._draw = draw
        self._by_door = {link.door.name: link for link in links}
        self._due: set[str] = set()
        self._sent_s = {link.door.name: -interval_s for link in links}
        self._encode = msgspec.msgpack.Encoder().encode
        self._report_seq = 0
        if len(links) > 1:
            for link in links:
                link.on_gap = self._snapshot
                at(self._next_s(link), self._beat, link)

    def _next_s(self, link: Link) -> float:
        """When a gateway sends what it has to say: at once, or an interval after it last did."""
        return max(self._clock.now_s, self._sent_s[link.door.name] + self._interval_s)

    def booked(self, door: gateways.Gateway) -> None:
        """A gateway's account has changed: it has something to say when it sends next."""
        if len(self.links) > 1 and door.name not in self._due:
            self._due.add(door.name)
            link = self._by_door[door.name]
            self._at(self._next_s(link), self._send, link)

    def _beat(self, link: Link, _: int) -> None:
        self._send(link, 0)
        self._at(self._clock.now_s + HEARTBEAT_S + self._interval_s, self._beat, link)

    def _send(self, link: Link, _: int) -> None:
        self._due.discard(link.door.name)
        raw = link.collect()
        if raw is None:
            return
        self.batches += 1
        self._sent_s[link.door.name] = self._clock.now_s
        for peer in self.links:
            if peer is not link and not self._is_lost():
                self._at(self._clock.now_s + self._delay_s, self._arrive, (peer, raw))

    def _is_lost(self) -> bool:
        return self.loss > 0 and self._draw() < self.loss

    @staticmethod
    def _arrive(what: tuple[Link, bytes], _: int) -> None:
        what[0].receive(what[1])

    def _snapshot(self, link: Link, source: str) -> None:
        """A gateway has missed something of `source` and asks it for its index: there with its next batch, and back."""
        other = self._by_door[source]
        self._at(self._clock.now_s + self._interval_s + 2 * self._delay_s, self._copy, (link, other))

    @staticmethod
    def _copy(what: tuple[Link, Link], _: int) -> None:
        link, other = what
        if not link.cut_off and not other.cut_off:
            link.take_index(other)

    def changed(self, there: worker.Worker) -> None:
        """A worker's cache has changed: it reports within half a second, where it has KV events."""
        there.report_due = True
        when_s = (math.floor(self._clock.now_s / kv_relay.INTERVAL_S) + 1) * kv_relay.INTERVAL_S
        self._at(when_s, self._report, there)

    def _report(self, there: worker.Worker, _: int) -> None:
        there.report_due = False
        if not there.ready:
            return
        model = there.engine
        evicted = model.counters.evicted_blocks
        there.reported = (model.cached_blocks, evicted)
        self._report_seq += 1
        raw = self._encode(
            wire.KvReport(
                wire.VERSION,
                wire.endpoint_key(there.id, there.record.incarnation),
                self._report_seq,
                model.cached_blocks,
                model.config.block_size,
                evicted - there.evicted_before,
                False,
                False,
            )
        )
        there.evicted_before = evicted
        for link in self.links:
            if not self._is_lost():
                self._at(self._clock.now_s + self._delay_s, self._take_report, (link, raw))

    @staticmethod
    def _take_report(what: tuple[Link, bytes], _: int) -> None:
        what[0].report(what[1])

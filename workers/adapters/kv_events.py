"""Subscribes to an engine's KV events over ZMQ, in order, with gaps repaired from the engine's replay buffer.

What cannot be repaired is told: a consumer must know that its picture of the cache is incomplete.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import zmq
from zmq import asyncio as zmq_asyncio

from workers.adapters import kv_wire

_REMEMBERED = 10_000
"""Hashes of payloads kept, to tell a batch that came twice (by replay and live) from one of an engine that restarted."""
_END = (-1).to_bytes(8, "big", signed=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """Batches first..last were not received and cannot be had: blocks stored or removed in them are not known."""

    first: int
    last: int


@dataclasses.dataclass(frozen=True, slots=True)
class Restarted:
    """The sequence began anew: the engine restarted, and nothing known of its cache holds any more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Garbled:
    """A batch that could not be decoded; to be treated as a gap of one."""

    sequence: int
    reason: str


Item = kv_wire.Batch | Gap | Restarted | Garbled


class KvSubscriber:
    """One engine's event stream. Use as an async context manager, then iterate over `items()`.

    Without replay, an engine that restarts and has sent more batches than were received before cannot be told from
    one that lost some: treat a `Gap` as the loss of everything known, or give each incarnation its own subscriber.
    """

    def __init__(
        self,
        endpoint: str,
        replay_endpoint: str | None = None,
        *,
        topic: str = "",
        replay_timeout_s: float = 5.0,
    ) -> None:
        self._endpoint = endpoint
        self._replay_endpoint = replay_endpoint
        self._topic = topic.encode()
        self._replay_timeout_s = replay_timeout_s
        self._context: zmq_asyncio.Context | None = None
        self._socket: zmq_asyncio.Socket | None = None
        self._expected = 0
        self._last: dict[int, int] = {}

    async def __aenter__(self) -> "KvSubscriber":
        self._context = zmq_asyncio.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set_hwm(100_000)
        self._socket.setsockopt(zmq.SUBSCRIBE, self._topic)
        self._socket.connect(self._endpoint)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._context is not None:
            self._context.destroy(linger=0)

    async def items(self) -> AsyncIterator[Item]:
        """Batches in order of their sequence, each once, with word of what is missing. Never ends by itself."""
        assert self._socket is not None, "not entered"
        if self._replay_endpoint is not None:
            async for item in self._catch_up(None):
                yield item
        while True:
            frames = await self._socket.recv_multipart()
            if len(frames) != 3 or len(frames[1]) != 8:
                continue
            sequence = int.from_bytes(frames[1], "big")
            if sequence < self._expected:
                if not self._is_restart(sequence, frames[2]):
                    continue
                yield Restarted()
                self._expected = 0
                self._last.clear()
            if sequence > self._expected:
                async for item in self._catch_up(sequence):
                    yield item
            yield self._accept(sequence, frames[2])

    def _is_restart(self, sequence: int, payload: bytes) -> bool:
        """Whether an old number is a new engine's, and not a batch that replay brought already."""
        return sequence not in self._last or self._last[sequence] != hash(payload)

    async def _catch_up(self, before: int | None) -> AsyncIterator[Item]:
        """What replay has from the expected batch up to `before`; what it lacks, as gaps."""
        missing: list[tuple[int, bytes]] = []
        if self._replay_endpoint is not None:
            known = self._expected - 1
            missing = await self._replay(max(known, 0))
            # The last batch that came, asked for again, tells an engine that restarted and has overtaken the count.
            if missing and missing[0][0] == known and self._is_restart(known, missing[0][1]):
                yield Restarted()
                self._expected = 0
                self._last.clear()
                missing = await self._replay(0)
        for sequence, payload in missing:
            if sequence < self._expected or (before is not None and sequence >= before):
                continue
            if sequence > self._expected:
                yield Gap(self._expected, sequence - 1)
            yield self._accept(sequence, payload)
        if before is not None and self._expected < before:
            yield Gap(self._expected, before - 1)
            self._expected = before

    def _accept(self, sequence: int, payload: bytes) -> Item:
        self._expected = sequence + 1
        self._last[sequence] = hash(payload)
        while len(self._last) > _REMEMBERED:
            del self._last[next(iter(self._last))]
        try:
            return kv_wire.decode(sequence, payload)
        except kv_wire.BadEvents as exc:
            return Garbled(sequence, str(exc))

    async def _replay(self, start: int) -> list[tuple[int, bytes]]:
        """The engine's buffered batches from `start` on; what came in time."""
        assert self._context is not None and self._replay_endpoint is not None
        batches: list[tuple[int, bytes]] = []
        dealer = self._context.socket(zmq.DEALER)
        try:
            dealer.connect(self._replay_endpoint)
            await dealer.send_multipart([b"", start.to_bytes(8, "big")])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._replay_timeout_s):
                    while True:
                        frames: list[Any] = await dealer.recv_multipart()
                        if frames[-2] == _END:
                            break
                        batches.append((int.from_bytes(frames[-2], "big"), frames[-1]))
        finally:
            dealer.close(linger=0)
        return batches

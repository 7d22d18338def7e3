"""Follows an engine's KV events and tells the gateways what they come to.

Gateways know prompts by their text, engines by their tokens, so blocks cannot be matched one by one without tokenising in
the gateway. What can be told exactly is how much the engine holds, that it evicts, and that it was emptied: a few numbers
instead of every event, whatever the number of gateways.
"""

from __future__ import annotations

import asyncio

import msgspec
import redis.asyncio as aioredis
from redis import exceptions

from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import logs
from workers.adapters import kv_events, kv_wire

INTERVAL_S = 0.5


class Cache:
    """What the events say that the engine holds. Pure; one group and medium, the GPU's first, is counted."""

    def __init__(self) -> None:
        self.resident: set[kv_wire.BlockHash] = set()
        self.block_tokens = 0
        self.evicted = 0
        self.cleared = False
        self.approximate = False
        self.changed = False

    def take(self, item: kv_events.Item) -> None:
        """Takes one item of a `KvSubscriber`."""
        self.changed = True
        if isinstance(item, kv_events.Restarted):
            self._clear()
            self.approximate = False
        elif isinstance(item, (kv_events.Gap, kv_events.Garbled)):
            self.approximate = True
        else:
            for event in item.events:
                self._apply(event)

    def _apply(self, event: kv_wire.Event) -> None:
        if isinstance(event, kv_wire.Cleared):
            self._clear()
            # Everything is known again: nothing is there.
            self.approximate = False
        elif event.group == 0 and event.medium == "GPU":
            if isinstance(event, kv_wire.Stored):
                self.block_tokens = event.block_size or self.block_tokens
                self.resident.update(event.hashes)
            else:
                before = len(self.resident)
                self.resident.difference_update(event.hashes)
                self.evicted += before - len(self.resident)

    def _clear(self) -> None:
        self.resident.clear()
        self.cleared = True

    def report(self, endpoint: str, seq: int) -> wire.KvReport:
        """What came since the last report, and begins the next."""
        made = wire.KvReport(
            wire.VERSION,
            endpoint,
            seq,
            len(self.resident),
            self.block_tokens,
            self.evicted,
            self.cleared,
            self.approximate,
        )
        self.evicted = 0
        self.cleared = self.changed = False
        return made


class KvRelay:
    """From one engine's events to the stream of reports."""

    def __init__(
        self, record: types.WorkerRecord, client: aioredis.Redis, keys: wire.Keys, clock: clocks.Clock
    ) -> None:
        assert record.kv_events is not None
        self._subscriber = kv_events.KvSubscriber(record.kv_events, record.kv_replay)
        self._endpoint = wire.endpoint_key(record.id, record.incarnation)
        self._redis = client
        self._stream = keys.kv_reports
        self._clock = clock
        self._log = logs.get("worker")
        self._seq = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.cache = Cache()

    async def start(self) -> None:
        """Begins to follow."""
        self._tasks = [
            asyncio.create_task(self._follow(), name="kv-follow"),
            asyncio.create_task(self._send(), name="kv-report"),
        ]

    async def stop(self) -> None:
        """Stops following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self) -> None:
        async with self._subscriber as subscriber:
            async for item in subscriber.items():
                if isinstance(item, (kv_events.Gap, kv_events.Garbled)):
                    self._log.warning("kv_events_missed", endpoint=self._endpoint, item=type(item).__name__)
                self.cache.take(item)

    async def _send(self) -> None:
        encode = msgspec.msgpack.Encoder().encode
        pending: wire.KvReport | None = None
        while True:
            await self._clock.sleep(INTERVAL_S)
            if pending is None and self.cache.changed:
                self._seq += 1
                pending = self.cache.report(self._endpoint, self._seq)
            if pending is None:
                continue
            try:
                await self._redis.xadd(
                    self._stream, {"d": encode(pending)}, maxlen=wire.KV_REPORTS_MAXLEN, approximate=True
                )
            except (exceptions.RedisError, OSError, TimeoutError) as exc:
                self._log.debug("kv_report_not_sent", reason=str(exc))
            else:
                pending = None

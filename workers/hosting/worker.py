"""One worker in one process: link, engine and agent, built from a specification."""

from __future__ import annotations

import asyncio
from typing import IO

from penstock.api import wire
from penstock.runtime import clock as clocks
from penstock.runtime import logs, registry
from penstock.runtime import redis as redis_link
from workers import agent, kv_relay, model_files
from workers.hosting import engines, spec


class Worker:
    """Starts and stops the parts in their order."""

    def __init__(self, worker: spec.WorkerSpec) -> None:
        clock = clocks.SystemClock()
        self._link = redis_link.RedisLink(worker.redis_url(), clock, name=worker.id, required_within_s=30.0)
        store = registry.RedisRegistry(self._link.client, wire.Keys(worker.namespace))
        self.agent = agent.WorkerAgent(worker, engines.make(worker), store, clock)
        self._clock = clock
        self._keys = wire.Keys(worker.namespace)
        self._relay: kv_relay.KvRelay | None = None
        self._folder = worker.model_folder
        self._files: IO[bytes] | None = None

    async def start(self) -> None:
        """Returns when the worker takes requests."""
        if self._folder is not None:
            self._files = await asyncio.to_thread(model_files.hold, self._folder)
            if self._files is None:
                logs.get("worker").warning("model_folder_not_held", folder=str(self._folder))
        await self._link.start()
        try:
            await self.agent.start()
        except BaseException:
            await self._link.stop()
            self._release()
            raise
        record = self.agent.record
        if record is not None and record.kv_events is not None:
            self._relay = kv_relay.KvRelay(record, self._link.client, self._keys, self._clock)
            await self._relay.start()

    async def drain(self) -> None:
        """Finishes what the engine has, then ends."""
        await self.agent.drain()
        await self._stop_relay()
        await self._link.stop()
        self._release()

    async def stop(self) -> None:
        """Ends at once."""
        await self.agent.stop()
        await self._stop_relay()
        await self._link.stop()
        self._release()

    def _release(self) -> None:
        if self._files is not None:
            self._files.close()

    async def _stop_relay(self) -> None:
        if self._relay is not None:
            await self._relay.stop()

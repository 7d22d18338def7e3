"""One worker in one process: link, engine and agent, built from a specification."""

from __future__ import annotations

from penstock.api import wire
from penstock.runtime import clock as clocks
from penstock.runtime import redis as redis_link
from penstock.runtime import registry
from workers import agent
from workers.hosting import engines, spec


class Worker:
    """Starts and stops the parts in their order."""

    def __init__(self, worker: spec.WorkerSpec) -> None:
        clock = clocks.SystemClock()
        self._link = redis_link.RedisLink(worker.redis_url(), clock, name=worker.id, required_within_s=30.0)
        store = registry.RedisRegistry(self._link.client, wire.Keys(worker.namespace))
        self.agent = agent.WorkerAgent(worker, engines.make(worker), store, clock)

    async def start(self) -> None:
        """Returns when the worker takes requests."""
        await self._link.start()
        try:
            await self.agent.start()
        except BaseException:
            await self._link.stop()
            raise

    async def drain(self) -> None:
        """Finishes what the engine has, then ends."""
        await self.agent.drain()
        await self._link.stop()

    async def stop(self) -> None:
        """Ends at once."""
        await self.agent.stop()
        await self._link.stop()

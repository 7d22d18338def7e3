"""Endpoints from the registry, and this gateway's own place in it."""

from __future__ import annotations

import asyncio
import os

from penstock import __version__
from penstock.api.types import GatewayRecord, WorkerRecord
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, registry
from penstock.runtime import redis as redis_link
from router.dataplane import gateway
from router.server import degraded, deployments

LEASE_S = 3.0
HEARTBEAT_S = 1.0


class RegisteredSource:
    """Follows the registry's workers, and renews this gateway's own registration."""

    def __init__(
        self,
        owner: gateway.Gateway,
        link: redis_link.RedisLink,
        store: registry.Registry,
        clock: clocks.Clock,
        health: degraded.Degraded,
        address: tuple[str, int],
        admin_address: tuple[str, int],
        policies: deployments.DeploymentPolicies,
    ) -> None:
        self._gateway = owner
        self._registry = store
        self._clock = clock
        self._health = health
        self._policies = policies
        self._address = address
        self._admin_address = admin_address
        self._started_at_s = clock.now_s()
        self._log = logs.get("gateway")
        self._task: asyncio.Task[None] | None = None
        self.watcher = registry.RegistryWatcher(store, link, clock, self._on_change)

    async def start(self) -> None:
        """Takes in the workers and registers."""
        await self.watcher.start()
        await self._beat()
        self._task = asyncio.create_task(self._heartbeat(), name="gateway-heartbeat")

    async def stop(self) -> None:
        """Gives up the registration."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.watcher.stop()
        try:
            await self._registry.drop_gateway(self._gateway.id)
        except errors.PenstockError as exc:
            self._log.warning("registration_not_dropped", reason=str(exc))

    def _on_change(self, workers: dict[str, WorkerRecord], removed: list[str]) -> None:
        endpoints = self._gateway.fleet
        for worker_id in removed:
            endpoints.remove(worker_id)
            self._log.info("worker_gone", worker=worker_id)
        for worker_id, record in workers.items():
            known = endpoints.backends.get(worker_id)
            if known is None or known.record != record:
                endpoints.upsert(record)
                self._log.info("worker_changed", worker=worker_id, state=record.state.value)

    async def _heartbeat(self) -> None:
        while True:
            await self._clock.sleep(HEARTBEAT_S)
            await self._beat()

    async def _beat(self) -> None:
        stale_s = self.watcher.stale_s
        if stale_s is None:
            self._health.clear(degraded.REGISTRY_LOST)
        else:
            count = len(self._gateway.fleet.backends)
            self._health.set(degraded.REGISTRY_LOST, f"Redis does not answer; routing over the last {count} workers")
        await self._policies.refresh()
        try:
            await self._registry.put_gateway(self._record(), LEASE_S)
        except errors.PenstockError as exc:
            self._log.debug("heartbeat_failed", reason=str(exc))

    def _record(self) -> GatewayRecord:
        owner = self._gateway
        return GatewayRecord(
            id=owner.id,
            host=self._address[0],
            port=self._address[1],
            admin_host=self._admin_address[0],
            admin_port=self._admin_address[1],
            pid=os.getpid(),
            version=__version__,
            policy=owner.profile.name,
            started_at_s=self._started_at_s,
            requests_total=owner.account.requests,
            inflight=len(owner.active),
            index_blocks=owner.fleet.index.entries,
            index_bytes=owner.fleet.index.bytes,
            endpoints=len(owner.fleet.backends),
            degraded=self._health.lines(),
        )

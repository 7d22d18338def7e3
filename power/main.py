"""Builds a node agent from its settings and runs it."""

from __future__ import annotations

import asyncio

import prometheus_client

from penstock import __version__
from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import degraded, errors, lifecycle, logs, registry, status_server, tasks
from penstock.runtime import redis as redis_link
from power import metrics, sampling
from power import settings as node_settings
from power.meters import nvml, port, rapl

_LEASE_BEATS = 3


class Published:
    """Keeps the node's sums in Redis, under a lease. Without Redis the agent measures on."""

    def __init__(
        self,
        settings: node_settings.NodeSettings,
        sampler: sampling.Sampler,
        store: registry.Registry,
        clock: clocks.Clock,
        health: degraded.Degraded,
    ) -> None:
        self._id, self._beat_s = settings.id, settings.beat_s
        self._sampler, self._store, self._clock, self._health = sampler, store, clock, health
        self._started_at_s = clock.now_s()
        self._log = logs.get("node")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to tell."""
        self._task = asyncio.create_task(self._run(), name="node-heartbeat")

    async def stop(self) -> None:
        """Takes the node's record back."""
        if self._task is None:
            return
        await tasks.cancel([self._task])
        try:
            await self._store.drop_node(self._id)
        except errors.PenstockError as exc:
            self._log.warning("registration_not_dropped", reason=str(exc))

    async def _run(self) -> None:
        while True:
            if self._sampler.looked:
                await self._beat()
            # The first record is of a first look, not of an interval that has passed.
            await self._clock.sleep(self._beat_s if self._sampler.looked else min(0.05, self._beat_s))

    async def _beat(self) -> None:
        try:
            await self._store.put_node(self._record(), self._beat_s * _LEASE_BEATS)
        except errors.PenstockError as exc:
            self._health.set(sampling.REGISTRY_LOST, f"the node's sums are not told: {exc}")
        else:
            self._health.clear(sampling.REGISTRY_LOST)

    def _record(self) -> types.NodeRecord:
        sums = self._sampler.sums()
        return types.NodeRecord(
            id=self._id,
            version=__version__,
            started_at_s=self._started_at_s,
            gpus=sums.gpus,
            gpu_w=sums.gpu_w,
            cpu_w=sums.cpu_w,
            # Who reads this has Redis.
            degraded=self._health.lines(without=(sampling.REGISTRY_LOST,)),
        )


def meters(settings: node_settings.NodeSettings) -> list[port.Meter]:
    """Those that the settings name."""
    made: list[port.Meter] = []
    for name in settings.meters:
        made.append(nvml.Nvml() if name == "nvml" else rapl.Rapl(settings.sys_dir))
    return made


def build(settings: node_settings.NodeSettings) -> tuple[lifecycle.Lifecycle, status_server.StatusServer]:
    """The components in their order, and the server that tells the port."""
    clock = clocks.SystemClock()
    health = degraded.Degraded(clock, "node", sampling.MODES)
    # The beats tell whether Redis is there: there may be thousands of agents.
    link = redis_link.RedisLink(
        settings.redis_url.get_secret_value(),
        clock,
        name="node",
        required_within_s=None,
        ping_interval_s=settings.beat_s * _LEASE_BEATS,
    )
    store = registry.RedisRegistry(link.client, wire.Keys(settings.namespace))
    sampler = sampling.Sampler(
        meters(settings), clock, health, interval_s=settings.interval_s, expected=settings.expect
    )
    own = prometheus_client.CollectorRegistry(auto_describe=False)
    own.register(metrics.Collector(settings.id, sampler, health))
    server = status_server.StatusServer(
        own,
        settings.metrics_host,
        settings.metrics_port,
        lambda: "" if sampler.looked else "not every meter was looked at yet",
        lambda: None,
        settings.metrics_address_file,
    )
    life = lifecycle.Lifecycle("node")
    life.add("meters", sampler)
    life.add("status", server)
    life.add("redis", link)
    life.add("record", Published(settings, sampler, store, clock, health))
    return life, server


async def serve(settings: node_settings.NodeSettings) -> int:
    """Runs until SIGTERM or SIGINT."""
    life, server = build(settings)
    return await lifecycle.until_signalled(life, "node_agent", lambda: {"id": settings.id, "metrics_port": server.port})

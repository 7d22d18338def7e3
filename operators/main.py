"""Builds an operator from its settings and runs it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection

from operators import (
    access,
    deployments,
    election,
    fleets,
    kube,
    loop,
    metrics,
    pods,
    profiles,
    published,
    scraped,
    sight,
)
from operators import copies as copies_of
from operators import settings as operator_settings
from penstock.api import wire
from penstock.api.crds import modeldeployment
from penstock.runtime import clock as clocks
from penstock.runtime import lifecycle, registry, status_server, tasks
from penstock.runtime import redis as redis_link

# Each namespace's registry is followed on a connection of its own.
_REDIS_CONNECTIONS = 1024


def credentials(settings: operator_settings.OperatorSettings) -> tuple[access.Access, Callable[[], str]]:
    """How to reach the API server, and the token of now. Raises `SettingsError`."""
    if settings.kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
        found = access.in_cluster(os.environ)
        return found, access.RotatingToken(access.ACCOUNT / "token", clocks.SystemClock())
    found = access.from_kubeconfig(settings.kubeconfig or access.kubeconfig_path(os.environ))
    return found, lambda: found.token


class Leading:
    """Lets the loop act exactly while this operator leads and knows the cluster."""

    def __init__(
        self, operator: loop.Operator, bid: election.Election, copies: copies_of.Copies, clock: clocks.Clock
    ) -> None:
        self._operator, self._election, self._copies, self._clock = operator, bid, copies, clock
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def changed(self) -> None:
        """The lease was won or lost."""
        self._wake.set()

    async def start(self) -> None:
        """Begins to follow the lease."""
        self._task = asyncio.create_task(self._run(), name="leading")

    async def stop(self) -> None:
        """Stops acting."""
        if self._task is not None:
            await tasks.cancel([self._task])
        await self._operator.follow()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            if self._election.leading and self._copies.synced:
                await self._operator.lead()
            elif not self._election.leading:
                await self._operator.follow()
            if self._election.leading and not self._copies.synced:
                await self._clock.sleep(0.05)
            else:
                await self._wake.wait()


def build(settings: operator_settings.OperatorSettings) -> tuple[lifecycle.Lifecycle, status_server.StatusServer]:
    """The components in their order, and the server that tells the port."""
    clock = clocks.SystemClock()
    found, token = credentials(settings)
    counted = metrics.Metrics()
    context = found.ssl_context()
    # The election goes on a client of its own: it writes while this operator does not lead.
    lease_client = kube.KubeClient(found.server, context, token, timeout_s=5.0, on_call=counted.called, clock=clock)
    # A new name for each process: a restarted operator does not pass for the one before it.
    holder = f"{settings.id}-{int(clock.now_s() * 1000):x}"
    space = settings.lease.namespace or found.namespace
    bid = election.Election(lease_client, clock, settings.lease, space, holder, lambda: leading.changed())
    client = kube.KubeClient(
        found.server, context, token, on_call=counted.called, may_write=lambda: bid.leading, clock=clock
    )
    link = redis_link.RedisLink(
        settings.redis_url.get_secret_value(),
        clock,
        name=settings.id,
        required_within_s=None,
        max_connections=_REDIS_CONNECTIONS,
    )
    copies = copies_of.Copies(client, clock, settings.namespaces, lambda key: operator.mark(key))
    known = fleets.Followed(
        lambda namespace: registry.RedisRegistry(link.client, wire.Keys(namespace)), link, clock, copies.workers_changed
    )
    verdicts = scraped.Scraped(known, clock)
    told = published.InRedis(link.client, lambda: bid.lease_uid)
    reconciler = deployments.DeploymentReconciler(
        client,
        sight.Cached(client, copies.deployments, copies.profiles, copies.owned),
        known,
        clock,
        pods.WorkerHost(
            settings.worker_image,
            settings.redis_secret,
            settings.redis_key,
            settings.vllm_image,
            settings.redis_ca_secret or "",
            settings.picker,
            settings.agent_tls_secret or "",
            settings.pull_secrets,
        ),
        verdicts,
        done=lambda command: counted.commands.labels(command).inc(),
        published=told,
    )
    operator = loop.Operator(
        client,
        reconciler,
        clock,
        counted,
        copies.keys,
        workers=settings.workers,
        resync_s=settings.resync_s,
        backoff_max_s=settings.backoff_max_s,
        document=lambda kind, namespace, name: copies.unbuilt[kind].store.get(namespace, name),
        counted_profiles=profiles.Profiles(client, clock, copies.profiles, copies.nodes),
        tidy=Tidy(known, told, copies.looks_after),
    )
    leading = Leading(operator, bid, copies, clock)
    server = _status_server(settings, counted, copies, known, bid, operator)
    life = lifecycle.Lifecycle("operator")
    for name, component in (
        ("status", server),
        ("clients", _Clients(lease_client, client)),
        ("redis", link),
        ("registries", known),
        ("latencies", verdicts),
        ("copies", copies),
        ("election", bid),
        ("loop", leading),
    ):
        life.add(name, component)
    return life, server


def _status_server(
    settings: operator_settings.OperatorSettings,
    counted: metrics.Metrics,
    copies: copies_of.Copies,
    known: fleets.Fleets,
    bid: election.Election,
    operator: loop.Operator,
) -> status_server.StatusServer:
    def refresh() -> None:
        counted.leading.set(bid.leading)
        counted.depth.set(len(operator.queue))
        modes = {"api_server": not copies.in_step, "registry": not known.known, "lease": not bid.holder}
        for mode, holds in modes.items():
            counted.degraded.labels(mode).set(holds)

    return status_server.StatusServer(
        counted.registry,
        settings.metrics_host,
        settings.metrics_port,
        lambda: "" if copies.synced else "the API server has not been listed yet",
        refresh,
        settings.metrics_address_file,
    )


class Tidy:
    """Lets go of registries of namespaces without deployments, and finds deployments that are gone and still told."""

    def __init__(self, known: fleets.Followed, told: published.Published, looks_after: Callable[[str], bool]) -> None:
        """`looks_after`: whether passes are made in a namespace."""
        self._fleets, self._told, self._looks_after = known, told, looks_after

    async def __call__(self, keys: Collection[loop.Key]) -> list[loop.Key]:
        """Of one that was deleted while no operator ran, nothing else would tell; a pass over it takes it back.

        Raises `PenstockError` where Redis cannot be asked.
        """
        deployment = modeldeployment.ModelDeployment
        await self._fleets.keep({namespace for kind, namespace, _ in keys if kind is deployment})
        names = await self._told.names()
        found = [(deployment, *name) for name in names if self._looks_after(name[0])]
        return [key for key in found if key not in keys]


class _Clients:
    """Closes the connections at the end."""

    def __init__(self, *clients: kube.KubeClient) -> None:
        self._clients = clients

    async def start(self) -> None:
        """They connect by themselves."""

    async def stop(self) -> None:
        """Closes them."""
        for each in self._clients:
            await each.close()


async def serve(settings: operator_settings.OperatorSettings) -> int:
    """Runs until SIGTERM or SIGINT; workers stay as they are."""
    life, server = build(settings)
    return await lifecycle.until_signalled(life, "operator", lambda: {"id": settings.id, "metrics_port": server.port})

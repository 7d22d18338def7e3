"""Builds an operator from its settings and runs it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from operators import (
    access,
    cache,
    deployments,
    election,
    fleets,
    kube,
    loop,
    metrics,
    pods,
    published,
    scraped,
    sight,
    unbuilt,
)
from operators import settings as operator_settings
from penstock.api import wire
from penstock.api.crds import acceleratorprofile, base, modeldeployment
from penstock.runtime import clock as clocks
from penstock.runtime import lifecycle, logs, registry, tasks
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


class Copies:
    """The informers of one operator, and what their changes mark."""

    def __init__(
        self,
        client: kube.KubeClient,
        clock: clocks.Clock,
        namespaces: tuple[str, ...],
        mark: Callable[[loop.Key], None],
    ) -> None:
        self._mark = mark

        def follow(
            path: Callable[[str], str],
            store: cache.Store,
            on_change: Callable[[kube.Object], None],
            **kwargs: bool | str,
        ) -> cache.Informer:
            paths = [path(namespace) for namespace in namespaces or ("",)]
            return cache.Informer(client, clock, store, paths, on_change=on_change, **kwargs)  # type: ignore[arg-type]  # labels and optional

        self.deployments = follow(sight.DEPLOYMENT.path, cache.Store(), self._of(modeldeployment.ModelDeployment))
        self.profiles = cache.Informer(
            client, clock, cache.Store(), [sight.PROFILE.path()], on_change=self._profile_changed
        )
        self.owned = {
            kind: follow(
                kind.path,
                cache.Store(sight.by_label, slim_pod if kind == sight.POD else None),
                self._owned_changed,
                labels=pods.DEPLOYMENT_LABEL,
                optional=kind.optional,
            )
            for kind in sight.OWNED
        }
        self.unbuilt = {kind: self._unbuilt(kind, client, clock, namespaces) for kind in unbuilt.KINDS}

    def _unbuilt(
        self, kind: type[base.Resource], client: kube.KubeClient, clock: clocks.Clock, namespaces: tuple[str, ...]
    ) -> cache.Informer:
        wanted = sight.Kind(kind.__name__, base.API_VERSION, kind.KIND.plural)
        paths = [wanted.path(each) for each in (namespaces if kind.KIND.namespaced else ()) or ("",)]
        return cache.Informer(client, clock, cache.Store(), paths, on_change=self._of(kind))

    @property
    def all(self) -> list[cache.Informer]:
        """All of them."""
        return [self.deployments, self.profiles, *self.owned.values(), *self.unbuilt.values()]

    @property
    def synced(self) -> bool:
        """Whether everything was listed once."""
        return all(each.synced for each in self.all)

    @property
    def in_step(self) -> bool:
        """Whether every watch runs."""
        return all(each.in_step for each in self.all)

    async def start(self) -> None:
        """Begins to follow."""
        for each in self.all:
            await each.start()

    async def stop(self) -> None:
        """Stops following."""
        for each in self.all:
            await each.stop()

    def keys(self) -> list[loop.Key]:
        """All objects that passes are made over."""
        found: list[loop.Key] = [
            (modeldeployment.ModelDeployment, *cache.name_of(each)) for each in self.deployments.store
        ]
        for kind, informer in self.unbuilt.items():
            found += [(kind, *cache.name_of(each)) for each in informer.store]
        return found

    def workers_changed(self, namespace: str, names: set[str]) -> None:
        """The registry has changed about these workers."""
        for name in names:
            found = self.owned[sight.POD].store.get(namespace, name)
            if found is not None:
                self._owned_changed(found)

    def _of(self, kind: type[base.Resource]) -> Callable[[kube.Object], None]:
        return lambda found: self._mark((kind, *cache.name_of(found)))

    def _owned_changed(self, found: kube.Object) -> None:
        for key in sight.by_label(found):
            self._mark((modeldeployment.ModelDeployment, *key))

    def _profile_changed(self, found: kube.Object) -> None:
        """Deployments that name the profile may now get workers on it."""
        assert acceleratorprofile.AcceleratorProfile.KIND.namespaced is False
        name = found["metadata"]["name"]
        for each in self.deployments.store:
            spec = each["spec"]
            lists = [spec.get("accelerators", ()), *(role.get("accelerators", ()) for role in spec.get("roles", ()))]
            if any(choice.get("profile") == name for choices in lists for choice in choices):
                self._mark((modeldeployment.ModelDeployment, *cache.name_of(each)))


def slim_pod(found: kube.Object) -> kube.Object:
    """What passes read of a Pod: ten thousand whole ones would be hundreds of MB."""
    meta = {key: value for key, value in found["metadata"].items() if key not in ("managedFields", "generateName")}
    status = found.get("status", {})
    kept = ("phase", "conditions", "containerStatuses", "initContainerStatuses", "podIP", "reason")
    return {
        "metadata": meta,
        "spec": {"nodeName": found.get("spec", {}).get("nodeName", "")},
        "status": {key: status[key] for key in kept if key in status},
    }


class Leading:
    """Lets the loop act exactly while this operator leads and knows the cluster."""

    def __init__(self, operator: loop.Operator, bid: election.Election, copies: Copies, clock: clocks.Clock) -> None:
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


def build(settings: operator_settings.OperatorSettings) -> tuple[lifecycle.Lifecycle, metrics.StatusServer]:
    """The components in their order, and the server that tells the port."""
    clock = clocks.SystemClock()
    found, token = credentials(settings)
    counted = metrics.Metrics()
    context = found.ssl_context()
    # The election goes on a client of its own: it writes while this operator does not lead.
    lease_client = kube.KubeClient(found.server, context, token, timeout_s=5.0, on_call=counted.called)
    # A new name for each process: a restarted operator does not pass for the one before it.
    holder = f"{settings.id}-{int(clock.now_s() * 1000):x}"
    bid = election.Election(
        lease_client,
        clock,
        settings.lease,
        settings.lease.namespace or found.namespace,
        holder,
        lambda: leading.changed(),
    )
    client = kube.KubeClient(found.server, context, token, on_call=counted.called, may_write=lambda: bid.leading)
    link = redis_link.RedisLink(
        settings.redis_url.get_secret_value(),
        clock,
        name=settings.id,
        required_within_s=None,
        max_connections=_REDIS_CONNECTIONS,
    )
    copies = Copies(client, clock, settings.namespaces, lambda key: operator.mark(key))
    known = fleets.Followed(
        lambda namespace: registry.RedisRegistry(link.client, wire.Keys(namespace)), link, clock, copies.workers_changed
    )
    verdicts = scraped.Scraped(known, clock)
    looking = sight.Cached(client, copies.deployments, copies.profiles, copies.owned)
    reconciler = deployments.DeploymentReconciler(
        client,
        looking,
        known,
        clock,
        pods.WorkerHost(
            settings.worker_image,
            settings.redis_secret,
            settings.redis_key,
            settings.vllm_image,
            settings.redis_ca_secret or "",
        ),
        verdicts,
        done=lambda command: counted.commands.labels(command).inc(),
        published=published.InRedis(link.client),
    )
    operator = loop.Operator(
        client,
        reconciler,
        clock,
        counted,
        copies.keys,
        workers=settings.workers,
        resync_s=settings.resync_s,
        document=lambda kind, namespace, name: copies.unbuilt[kind].store.get(namespace, name),
    )
    leading = Leading(operator, bid, copies, clock)

    def refresh() -> None:
        counted.leading.set(bid.leading)
        counted.depth.set(len(operator.queue))

    server = metrics.StatusServer(
        counted,
        settings.metrics_host,
        settings.metrics_port,
        lambda: {"api_server": not copies.in_step, "registry": not known.known, "lease": not bid.holder},
        lambda: "" if copies.synced else "the API server has not been listed yet",
        refresh,
        settings.metrics_address_file,
    )
    life = lifecycle.Lifecycle("operator")
    life.add("status", server)
    life.add("clients", _Clients(lease_client, client))
    life.add("redis", link)
    life.add("registries", known)
    life.add("latencies", verdicts)
    life.add("copies", copies)
    life.add("election", bid)
    life.add("loop", leading)
    return life, server


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
    stopped = asyncio.Event()
    lifecycle.stop_on_signals(stopped)
    life, server = build(settings)
    log = logs.get("operator")
    await life.start()
    log.info("operator_ready", id=settings.id, metrics_port=server.port)
    await stopped.wait()
    failed = await life.stop()
    log.info("operator_stopped", id=settings.id, overran=failed)
    return 1 if failed else 0

"""Keeps what a deployment owns beside its workers: what differs is applied, what is not wanted any more goes."""

from __future__ import annotations

from typing import Any

from operators import cache, kube, objects, pods, sight, units
from operators.policy import routes, workers
from penstock.api.crds import modeldeployment
from penstock.runtime import errors

Object = dict[str, Any]


async def keep(
    client: kube.KubeClient,
    looking: sight.Sight,
    host: pods.WorkerHost,
    deployment: modeldeployment.ModelDeployment,
    seen: sight.Seen,
    observed: workers.Observed,
) -> routes.Route | None:
    """Budgets, Service, EndpointSlices, pool, route; how the route stands, None where none is asked for.

    Raises `RetryableError`, `TerminalError`. A route that the API server refuses is told, and holds nothing else up.
    """
    wanted = [
        (sight.BUDGET, objects.budgets(deployment)),
        (sight.SERVICE, [objects.service(deployment)]),
        (sight.SLICE, objects.slices(deployment, observed.workers, units.addresses(seen))),
    ]
    pools = host.picker != "" and looking.has(sight.POOL)
    if pools:
        wanted.append((sight.POOL, [objects.pool(deployment, host.picker)]))
    for kind, documents in wanted:
        await _kept(client, looking, seen, kind, documents)
    return await _keep_route(client, looking, host, deployment, seen)


async def _keep_route(
    client: kube.KubeClient,
    looking: sight.Sight,
    host: pods.WorkerHost,
    deployment: modeldeployment.ModelDeployment,
    seen: sight.Seen,
) -> routes.Route | None:
    gateway = deployment.spec.gateway
    lack = routes.lack(looking.has(sight.ROUTE), looking.has(sight.POOL), host.picker != "")
    documents = [objects.route(deployment, gateway)] if gateway is not None and lack is None else []
    refused = ""
    if documents and not seen.of(sight.ROUTE):
        refused = await _taken(client, deployment)
    if looking.has(sight.ROUTE) and not refused:
        try:
            await _kept(client, looking, seen, sight.ROUTE, documents)
        except errors.FencedError:
            raise
        except errors.TerminalError as exc:
            refused = f"{exc} -> correct spec.gateway"
    if gateway is None:
        return None
    found = next(iter(seen.of(sight.ROUTE)), None)
    return routes.Route(lack, refused, found)


async def _taken(client: kube.KubeClient, deployment: modeldeployment.ModelDeployment) -> str:
    """Why the route's name cannot be used: a person's own route of this name is not written over."""
    meta = deployment.metadata
    there = await client.get(sight.ROUTE.path(meta.namespace, meta.name))
    if there is None or cache.owner_uid(there) == meta.uid:
        return ""
    return f"HTTPRoute {meta.name} is there and not of this ModelDeployment -> delete or rename it"


async def _kept(
    client: kube.KubeClient, looking: sight.Sight, seen: sight.Seen, kind: sight.Kind, documents: list[Object]
) -> None:
    found = {each["metadata"]["name"]: each for each in seen.of(kind)}
    namespace = seen.document["metadata"]["namespace"]
    for document in documents:
        name = document["metadata"]["name"]
        if not objects.covers(document, _typed(document, found.pop(name, None))):
            looking.wrote(kind, await client.apply(kind.path(namespace, name), document))
    for name, each in found.items():
        await client.delete(kind.path(namespace, name), each["metadata"]["uid"])


def _typed(document: Object, found: Object | None) -> Object | None:
    """Objects of a list do not bear their kind."""
    return None if found is None else found | {"apiVersion": document["apiVersion"], "kind": document["kind"]}

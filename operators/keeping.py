"""Keeps what a deployment owns beside its workers: what differs is applied, what is not wanted any more goes.

What is refused, and what somebody else has under the name, is told and holds nothing else up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from operators import cache, kube, objects, pods, sight, units
from operators.policy import problems, routes, workers
from penstock.api.crds import modeldeployment
from penstock.runtime import errors

Object = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Kept:
    """What could not be kept, and how the route stands (None where none is asked for)."""

    problems: tuple[problems.Problem, ...]
    route: routes.Route | None


async def keep(
    client: kube.KubeClient,
    looking: sight.Sight,
    host: pods.WorkerHost,
    deployment: modeldeployment.ModelDeployment,
    seen: sight.Seen,
    observed: workers.Observed,
) -> Kept:
    """Budgets, Service, EndpointSlices, pool, route. Raises `RetryableError`, `FencedError`, `UnauthorizedError`."""
    wanted = [
        (sight.BUDGET, objects.budgets(deployment)),
        (sight.SERVICE, [objects.service(deployment)]),
        (sight.SLICE, objects.slices(deployment, observed.workers, units.addresses(seen))),
    ]
    if looking.has(sight.POOL):
        # Without a picker none: what nobody chooses for must not stay.
        picker = routes.picker_in(deployment.metadata.namespace, host.picker)
        wanted.append((sight.POOL, [objects.pool(deployment, picker)] if picker else []))
    found: list[problems.Problem] = []
    for kind, documents in wanted:
        found += await _kept(client, looking, seen, kind, documents)
    return Kept(tuple(found), await _keep_route(client, looking, host, deployment, seen))


async def _keep_route(
    client: kube.KubeClient,
    looking: sight.Sight,
    host: pods.WorkerHost,
    deployment: modeldeployment.ModelDeployment,
    seen: sight.Seen,
) -> routes.Route | None:
    gateway = deployment.spec.gateway
    space = deployment.metadata.namespace
    lack = routes.lack(looking.has(sight.ROUTE), looking.has(sight.POOL), space, host.picker)
    documents = [objects.route(deployment, gateway)] if gateway is not None and lack is None else []
    found: Sequence[problems.Problem] = ()
    if looking.has(sight.ROUTE):
        found = await _kept(client, looking, seen, sight.ROUTE, documents)
    if gateway is None:
        return None
    refused = "; ".join(each.message for each in found)
    return routes.Route(lack, refused, next(iter(seen.of(sight.ROUTE)), None))


async def _kept(
    client: kube.KubeClient, looking: sight.Sight, seen: sight.Seen, kind: sight.Kind, documents: list[Object]
) -> list[problems.Problem]:
    """Applies and deletes objects of one kind; what could not be."""
    there = {each["metadata"]["name"]: each for each in seen.of(kind)}
    found: list[problems.Problem] = []
    for document in documents:
        name = document["metadata"]["name"]
        try:
            problem = await _applied(client, looking, seen, kind, document, there.pop(name, None))
        except (errors.FencedError, kube.UnauthorizedError):
            raise
        except errors.TerminalError as exc:
            problem = problems.of_object(kind.name, name, str(exc))
        found += [problem] if problem else []
    for name, each in there.items():
        try:
            await client.delete(kind.path(each["metadata"]["namespace"], name), each["metadata"]["uid"])
        except (errors.FencedError, kube.UnauthorizedError):
            raise
        except errors.TerminalError as exc:
            found.append(problems.of_object(kind.name, name, str(exc)))
    return found


async def _applied(
    client: kube.KubeClient,
    looking: sight.Sight,
    seen: sight.Seen,
    kind: sight.Kind,
    document: Object,
    known: Object | None,
) -> problems.Problem | None:
    """Applies what differs. What bears the name and is not this deployment's is not written over."""
    if objects.covers(document, _typed(document, known)):
        return None
    meta = document["metadata"]
    path = kind.path(meta["namespace"], meta["name"])
    if known is None and not _is_ours(await client.get(path), seen, meta["labels"]):
        return problems.name_taken(kind.name, meta["name"])
    looking.wrote(kind, await client.apply(path, document))
    return None


def _is_ours(there: Object | None, seen: sight.Seen, labels: Object) -> bool:
    """Whether an object may be written: none is there, or one that an operator made for a deployment of this name."""
    if there is None:
        return True
    owners = there["metadata"].get("ownerReferences") or ()
    if not cache.owner_uid(there):
        return objects.covers(labels, there["metadata"].get("labels"))
    former = {"kind": "ModelDeployment", "name": seen.document["metadata"]["name"], "controller": True}
    return any(objects.covers(former, each) for each in owners)


def _typed(document: Object, found: Object | None) -> Object | None:
    """Objects of a list do not bear their kind."""
    return None if found is None else found | {"apiVersion": document["apiVersion"], "kind": document["kind"]}

"""What is seen of one deployment: itself and all that it owns, from the copies or anew from the API server."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Collection, Iterable
from typing import Protocol

from operators import cache, kube, pods
from penstock.api.crds import base

Object = kube.Object


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind whose objects a deployment owns, as the API server knows it."""

    name: str
    api_version: str
    plural: str
    # Whether a cluster may lack it.
    optional: bool = False

    def path(self, namespace: str = "", name: str = "") -> str:
        """Path of one object, of all of a namespace, or of all."""
        group = "/api/v1" if self.api_version == "v1" else f"/apis/{self.api_version}"
        middle = f"/namespaces/{namespace}" if namespace else ""
        return f"{group}{middle}/{self.plural}{name and '/' + name}"


DEPLOYMENT = Kind("ModelDeployment", base.API_VERSION, "modeldeployments")
PROFILE = Kind("AcceleratorProfile", base.API_VERSION, "acceleratorprofiles")
POD = Kind("Pod", "v1", "pods")
REVISION = Kind("ControllerRevision", "apps/v1", "controllerrevisions")
BUDGET = Kind("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets")
SERVICE = Kind("Service", "v1", "services")
SLICE = Kind("EndpointSlice", "discovery.k8s.io/v1", "endpointslices")
UNIT = Kind("RayCluster", "ray.io/v1", "rayclusters", optional=True)
SERVED = Kind("RayService", "ray.io/v1", "rayservices", optional=True)
POOL = Kind("InferencePool", "inference.networking.k8s.io/v1", "inferencepools", optional=True)
ROUTE = Kind("HTTPRoute", "gateway.networking.k8s.io/v1", "httproutes", optional=True)
# Kinds that are a worker each.
WORKERS = (POD, UNIT, SERVED)
# What decides about workers: looked at anew before anything is taken away.
DECIDING = (*WORKERS, REVISION)
OWNED = (*DECIDING, BUDGET, SERVICE, SLICE, POOL, ROUTE)


@dataclasses.dataclass(frozen=True)
class Seen:
    """One deployment at one moment. `owned` are the objects by plural name whose controller it is."""

    document: Object
    owned: dict[str, list[Object]]
    # Pods with the deployment's label that something else owns: the ranks of units.
    ranks: tuple[Object, ...] = ()
    # Workers and revisions with the deployment's label that nothing owns, as a deletion without its dependents leaves them.
    orphans: tuple[tuple[Kind, Object], ...] = ()

    def of(self, kind: Kind) -> list[Object]:
        """Its objects of a kind."""
        return self.owned.get(kind.plural, [])


class Sight(Protocol):
    """How a reconciler looks."""

    async def look(self, namespace: str, name: str, *, fresh: bool = False) -> Seen | None:
        """The deployment and what it owns; None where it is not there. `fresh`: as the API server has it now."""

    async def named(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Whoever's object of a kind of workers; None also where the kind is not there."""

    async def profile(self, name: str) -> Object | None:
        """An AcceleratorProfile."""

    def has(self, kind: Kind) -> bool:
        """Whether the API server has an optional kind."""

    def wrote(self, kind: Kind, found: Object) -> None:
        """An object of this operator's, as the server answered it."""


class Live:
    """Asks the API server each time."""

    def __init__(self, client: kube.KubeClient, optional: Collection[Kind] = ()) -> None:
        """`optional`: kinds that this cluster has, of those that one may lack."""
        self._kube, self._optional = client, frozenset(optional)

    async def look(self, namespace: str, name: str, *, fresh: bool = False) -> Seen | None:
        """See `Sight`."""
        return await self._look_at(OWNED, namespace, name)

    async def _look_at(self, wanted: Iterable[Kind], namespace: str, name: str) -> Seen | None:
        document = await self._kube.get(DEPLOYMENT.path(namespace, name))
        if document is None:
            return None
        kinds = [kind for kind in wanted if self.has(kind)]
        selector = f"{pods.DEPLOYMENT_LABEL}={name}"
        lists = await asyncio.gather(*(self._kube.list(kind.path(namespace), selector) for kind in kinds))
        return _seen(document, {kind.plural: found for kind, (found, _) in zip(kinds, lists, strict=True)})

    async def named(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """See `Sight`."""
        return await self._kube.get(kind.path(namespace, name)) if self.has(kind) else None

    async def profile(self, name: str) -> Object | None:
        """See `Sight`."""
        return await self._kube.get(PROFILE.path("", name))

    def has(self, kind: Kind) -> bool:
        """See `Sight`."""
        return not kind.optional or kind in self._optional

    def wrote(self, kind: Kind, found: Object) -> None:
        """See `Sight`."""


class Cached(Live):
    """Looks at the copies."""

    def __init__(
        self,
        client: kube.KubeClient,
        deployments: cache.Informer,
        profiles: cache.Informer,
        owned: dict[Kind, cache.Informer],
    ) -> None:
        super().__init__(client)
        self._deployments, self._profiles, self._owned = deployments, profiles, owned

    async def look(self, namespace: str, name: str, *, fresh: bool = False) -> Seen | None:
        """See `Sight`. A fresh look also brings the copies forward; copies that are not in step are not looked at."""
        if fresh or not all(each.in_step_in(namespace) for each in (self._deployments, *self._owned.values())):
            seen = await self._look_at(DECIDING, namespace, name)
            if seen is None:
                return None
            others = {}
            for kind, informer in self._owned.items():
                for each in seen.of(kind):
                    informer.take(each)
                if kind not in DECIDING:
                    others[kind.plural] = informer.store.of(namespace, name)
            return dataclasses.replace(seen, owned={**seen.owned, **_seen(seen.document, others).owned})
        document = self._deployments.store.get(namespace, name)
        if document is None:
            return None
        return _seen(
            document, {kind.plural: informer.store.of(namespace, name) for kind, informer in self._owned.items()}
        )

    async def named(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """See `Sight`. Of copies: those that bear some deployment's label."""
        informer = self._owned.get(kind)
        if informer is None or not informer.in_step_in(namespace):
            return await super().named(kind, namespace, name)
        return informer.store.get(namespace, name)

    async def profile(self, name: str) -> Object | None:
        """See `Sight`."""
        return self._profiles.store.get("", name)

    def has(self, kind: Kind) -> bool:
        """See `Sight`."""
        informer = self._owned.get(kind)
        return informer is not None and informer.present

    def wrote(self, kind: Kind, found: Object) -> None:
        """See `Sight`."""
        informer = self._deployments if kind == DEPLOYMENT else self._owned.get(kind)
        if informer is not None:
            informer.take(found)


def _seen(document: Object, found: dict[str, list[Object]]) -> Seen:
    uid = document["metadata"]["uid"]
    owned = {plural: [each for each in objects if cache.owner_uid(each) == uid] for plural, objects in found.items()}
    ranks = tuple(each for each in found.get(POD.plural, ()) if cache.owner_uid(each) not in ("", uid))
    orphans = tuple(
        (kind, each)
        for kind in DECIDING
        for each in found.get(kind.plural, ())
        if not cache.owner_uid(each)
        and "deletionTimestamp" not in each["metadata"]
        # What only copies the label is not a worker.
        and (kind == REVISION or pods.ROLE_LABEL in each["metadata"]["labels"])
    )
    return Seen(document, owned, ranks, orphans)


def by_label(found: Object) -> list[cache.Name]:
    """Index of owned objects: the deployment that their label names."""
    meta = found["metadata"]
    name = (meta.get("labels") or {}).get(pods.DEPLOYMENT_LABEL)
    return [(meta.get("namespace", ""), name)] if name else []

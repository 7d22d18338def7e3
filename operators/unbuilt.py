"""Kinds that are checked and kept, but that nothing acts on yet: they say so in their status, and that is all."""

from __future__ import annotations

from operators import kube
from operators.policy import status
from penstock.api.crds import base, kvcachetier, loraadapter, powerdomain, tenant
from penstock.runtime import clock as clocks

KINDS: tuple[type[base.Resource], ...] = (
    loraadapter.LoraAdapter,
    powerdomain.PowerDomain,
    kvcachetier.KVCacheTier,
    tenant.Tenant,
)


def path_of(kind: base.Kind, namespace: str, name: str) -> str:
    """Path of an object."""
    middle = f"/namespaces/{namespace}" if kind.namespaced else ""
    return f"/apis/{base.API_VERSION}{middle}/{kind.plural}/{name}"


async def reconcile(
    client: kube.KubeClient,
    clock: clocks.Clock,
    resource: type[base.Resource],
    namespace: str,
    name: str,
    known: kube.Object | None = None,
) -> bool:
    """Writes the condition where it is missing or about an older generation; whether it wrote. Raises as the client.

    `known` is a copy of the object; without one the server is asked.
    """
    path = path_of(resource.KIND, namespace, name)
    document = known or await client.get(path)
    if document is None:
        return False
    read = resource.read(document)
    before: base.Status = getattr(read, "status")  # noqa: B009  each kind has a status of its own type
    kind, generation = resource.__name__, read.metadata.generation
    condition = status.not_yet(before, generation, kind, clock.now_s())
    if condition in before.conditions and before.observed_generation == generation:
        return False
    metadata = {"name": name} | ({"namespace": namespace} if resource.KIND.namespaced else {})
    said = {"observedGeneration": generation, "conditions": [condition.model_dump(by_alias=True, mode="json")]}
    applied = {"apiVersion": base.API_VERSION, "kind": kind, "metadata": metadata, "status": said}
    await client.apply(f"{path}/status", applied)
    return True

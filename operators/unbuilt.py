"""Kinds that are checked and kept, but that nothing acts on yet: they say so in their status, and that is all."""

from __future__ import annotations

import pydantic

from operators import kube, refused
from operators.policy import status
from penstock.api.crds import base, kvcachetier, loraadapter, powerdomain, tenant
from penstock.runtime import clock as clocks
from penstock.runtime import errors

KINDS: tuple[type[base.Resource], ...] = (
    loraadapter.LoraAdapter,
    powerdomain.PowerDomain,
    kvcachetier.KVCacheTier,
    tenant.Tenant,
)


async def reconcile(
    client: kube.KubeClient,
    clock: clocks.Clock,
    resource: type[base.Resource],
    namespace: str,
    name: str,
    known: kube.Object | None = None,
) -> bool:
    """Writes the condition where it is missing or about an older generation; whether it wrote.

    Raises as the client, and TerminalError for an object that this version does not take, which says so in its status.

    `known` is a copy of the object; without one the server is asked.
    """
    path = refused.path_of(resource.KIND, namespace, name)
    document = known or await client.get(path)
    if document is None:
        return False
    try:
        read = resource.read(document)
    except pydantic.ValidationError as exc:
        why = refused.message(resource, exc)
        await refused.say(client, clock, resource, document, why)
        raise errors.TerminalError(f"{name}: {why}") from exc
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

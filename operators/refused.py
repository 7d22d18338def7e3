"""Objects that an older definition took and this version does not: they say so in their status, and nothing else is changed."""

from __future__ import annotations

import pydantic

from operators import kube
from operators.policy import status
from penstock.api import invalid
from penstock.api.crds import base
from penstock.runtime import clock as clocks

REASON = "Invalid"
_MESSAGE_MAX = 1000


def message(resource: type[base.Resource], exc: pydantic.ValidationError) -> str:
    """What is wrong with it, and the next step."""
    said = f"{invalid.in_words(exc, 'object')} -> correct it: this version takes no such {resource.__name__}"
    return said[:_MESSAGE_MAX]


async def say(
    client: kube.KubeClient, clock: clocks.Clock, resource: type[base.Resource], document: kube.Object, why: str
) -> kube.Object | None:
    """Writes `Ready` as false beside the conditions that there are; the object as it is then, None where it said so before.

    Raises as the client.
    """
    meta, said = base.ObjectMeta.model_validate(document["metadata"]), document.get("status", {})
    before = base.Status.model_validate(said, extra="ignore")
    ready = status.condition(before.conditions, status.READY, False, REASON, why, meta.generation, clock.now_s())
    if ready in before.conditions:
        return None
    kept = [each for each in said.get("conditions", ()) if each["type"] != status.READY]
    become = {
        "observedGeneration": meta.generation,
        "conditions": [*kept, ready.model_dump(by_alias=True, mode="json")],
    }
    inside = {"namespace": meta.namespace} if resource.KIND.namespaced else {}
    applied = {
        "apiVersion": base.API_VERSION,
        "kind": resource.__name__,
        "metadata": {"name": meta.name} | inside,
        "status": {**said, **become},
    }
    return await client.apply(f"{path_of(resource.KIND, meta.namespace, meta.name)}/status", applied)


def path_of(kind: base.Kind, namespace: str, name: str) -> str:
    """Path of an object."""
    middle = f"/namespaces/{namespace}" if kind.namespaced else ""
    return f"/apis/{base.API_VERSION}{middle}/{kind.plural}/{name}"

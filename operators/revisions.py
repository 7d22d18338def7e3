"""Revisions of a deployment: the part of its specification that makes up the workers, its hash, its history. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from operators import pods
from penstock.api.crds import base, modeldeployment

Object = dict[str, Any]

# On revisions that all workers have had.
SERVED_ANNOTATION = "penstock.dev/served"
RESTART_ANNOTATION = "penstock.dev/restarted-at"


def template(deployment: modeldeployment.ModelDeployment) -> Object:
    """What a worker is made of. Counts, bounds and how workers stop or are replaced are no part of it.

    Fields that have their default are left out, so that a version that adds a field changes no revision.
    """
    spec = deployment.spec

    def part(value: base.Part, exclude: set[str] | None = None) -> Object:
        return value.model_dump(by_alias=True, mode="json", exclude_defaults=True, exclude=exclude)

    found: Object = {
        "model": part(spec.model),
        "engine": part(spec.engine),
        "parallelism": part(spec.parallelism),
        "kvCache": part(spec.kv_cache),
        "placement": part(spec.placement, {"disruption_budget"}),
        "accelerators": [part(each) for each in spec.accelerators],
        "roles": {
            role.name: part(role, {"name", "replicas", "scaling"})
            for role in sorted(spec.roles, key=lambda it: it.name)
        },
    }
    if spec.hosting != "Pods":
        found["hosting"] = spec.hosting
    restarted = deployment.metadata.annotations.get(RESTART_ANNOTATION)
    if restarted:
        found["restartedAt"] = restarted
    return {name: value for name, value in found.items() if value}


def name_of(data: Object) -> str:
    """Hash of a template, as it stands on Pods and in the status."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def applied(deployment: modeldeployment.ModelDeployment, data: Object) -> modeldeployment.ModelDeployment:
    """The deployment with the workers of another revision; counts and the rest stay. Raises ValidationError."""
    document = deployment.model_dump(by_alias=True, mode="json", exclude_none=True)
    spec = document["spec"]
    for name in ("model", "engine", "parallelism", "kvCache", "accelerators", "hosting"):
        spec.pop(name, None)
        if name in data:
            spec[name] = data[name]
    spec["placement"] = {
        **data.get("placement", {}),
        "disruptionBudget": spec.get("placement", {}).get("disruptionBudget", {}),
    }
    roles = data.get("roles", {})
    spec["roles"] = [
        {key: role[key] for key in ("name", "replicas", "scaling") if key in role} | roles.get(role["name"], {})
        for role in spec["roles"]
    ]
    return modeldeployment.ModelDeployment.read(document)


def document(deployment: modeldeployment.ModelDeployment, data: Object, number: int) -> Object:
    """The object that keeps a revision."""
    meta, revision = deployment.metadata, name_of(data)
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{meta.name}-{revision}",
            "namespace": meta.namespace,
            "labels": {pods.DEPLOYMENT_LABEL: meta.name, pods.REVISION_LABEL: revision},
            "ownerReferences": [pods.owner(deployment)],
        },
        "data": data,
        "revision": number,
    }


def has_served(kept: Object) -> bool:
    """Whether all workers have had it."""
    return SERVED_ANNOTATION in (kept["metadata"].get("annotations") or {})


def by_name(found: Sequence[Object]) -> dict[str, Object]:
    """Kept revisions by hash."""
    return {each["metadata"]["labels"][pods.REVISION_LABEL]: each for each in found}


def next_number(found: Sequence[Object]) -> int:
    """The number of the next revision."""
    return max((int(each["revision"]) for each in found), default=0) + 1


def outdated(found: Sequence[Object], used: set[str], limit: int) -> list[Object]:
    """Revisions beyond the limit, the oldest first; those in use stay and do not count."""
    free = [each for each in found if each["metadata"]["labels"].get(pods.REVISION_LABEL) not in used]
    free.sort(key=lambda each: int(each["revision"]))
    return free[: max(0, len(free) - limit)]

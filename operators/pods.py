"""Worker Pods: the one that a worker should have, and what is read of one that is there. Pure."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from typing import Any

from operators.policy import problems, workers
from penstock.api import types
from penstock.api.crds import acceleratorprofile, base, modeldeployment, operation, serving, values

Object = dict[str, Any]

DEPLOYMENT_LABEL = "penstock.dev/deployment"
ROLE_LABEL = "penstock.dev/role"
REVISION_LABEL = "penstock.dev/revision"
ACCELERATOR_LABEL = "penstock.dev/accelerator"
DRAIN_ANNOTATION = "penstock.dev/drain-since"
ENGINE_PORT = 8000
# After the drain's own deadline: to cut what is left, deregister and end.
_GRACE_S = 30
_PROBE_S = 5


@dataclasses.dataclass(frozen=True)
class WorkerHost:
    """What every worker Pod gets from the installation: image and where the registry is (a Secret with its URL)."""

    image: str
    redis_secret: str
    redis_key: str = "url"


class UnsupportedError(ValueError):
    """A deployment that this version cannot host. The message says what and what is possible."""


def pod(
    deployment: modeldeployment.ModelDeployment,
    create: workers.Create,
    host: WorkerHost,
    profile: acceleratorprofile.AcceleratorProfile | None = None,
) -> Object:
    """The Pod of a new worker; `profile` is the hardware that it is placed on. Raises `UnsupportedError`."""
    spec, meta = deployment.spec, deployment.metadata
    if spec.engine.kind != "sim":
        raise UnsupportedError(f"engine.kind {spec.engine.kind} is not hosted on Pods in this version; sim is")
    role = next(each for each in spec.roles if each.name == create.role)
    drain_s = math.ceil(values.duration_s(spec.drain.timeout))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": create.worker,
            "namespace": meta.namespace,
            "labels": labels_of(deployment, create),
            "ownerReferences": [owner(deployment)],
        },
        "spec": {
            # A drained worker ends with 0 and stays ended; one that crashed is started again in its place.
            "restartPolicy": "OnFailure",
            "terminationGracePeriodSeconds": drain_s + _GRACE_S,
            "automountServiceAccountToken": False,
            "containers": [_container(deployment, role, create, host)],
            **_placement(spec.placement, selector(meta.name, role.name), profile),
        },
    }


def selector(deployment: str, role: str) -> dict[str, str]:
    """Labels that all workers of a role have, of whatever revision."""
    return {"app.kubernetes.io/name": "penstock-worker", DEPLOYMENT_LABEL: deployment, ROLE_LABEL: role}


def labels_of(deployment: modeldeployment.ModelDeployment, create: workers.Create) -> dict[str, str]:
    """All labels of a worker."""
    found = selector(deployment.metadata.name, create.role) | {REVISION_LABEL: create.revision}
    return found | ({ACCELERATOR_LABEL: create.accelerator} if create.accelerator else {})


def owner(deployment: modeldeployment.ModelDeployment) -> Object:
    """The reference by which Kubernetes deletes what a deployment owns with it: no finalizer is needed."""
    meta = deployment.metadata
    return {
        "apiVersion": base.API_VERSION,
        "kind": "ModelDeployment",
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _container(
    deployment: modeldeployment.ModelDeployment, role: serving.Role, create: workers.Create, host: WorkerHost
) -> Object:
    engine = deployment.spec.engine
    resources = role.resources or engine.resources
    asked = {"cpu": str(resources.cpu), "memory": str(resources.memory)}
    probe = {"httpGet": {"path": "/health", "port": ENGINE_PORT}, "periodSeconds": _PROBE_S}
    tries = math.ceil(values.duration_s(engine.start_timeout) / _PROBE_S)
    return {
        "name": "worker",
        "image": engine.image or host.image,
        "command": ["python", "-m", "workers.hosting"],
        "env": [
            *(_variable(each) for each in engine.env),
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {
                "name": "PENSTOCK_WORKER_SPEC",
                "value": json.dumps(worker_spec(deployment, role, create.worker, create.revision)),
            },
            {
                "name": "PENSTOCK_WORKER_REDIS_URL",
                "valueFrom": {"secretKeyRef": {"name": host.redis_secret, "key": host.redis_key}},
            },
        ],
        "ports": [{"name": "http", "containerPort": ENGINE_PORT}],
        "resources": {"requests": asked, "limits": {"memory": asked["memory"]}},
        "startupProbe": {**probe, "failureThreshold": tries},
        "readinessProbe": probe,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def worker_spec(deployment: modeldeployment.ModelDeployment, role: serving.Role, name: str, revision: str) -> Object:
    """What `python -m workers.hosting` reads. Kubernetes puts the Pod's address in place of $(POD_IP)."""
    engine = deployment.spec.engine
    flags = (each.partition("=") for each in (*engine.args, *role.args))
    settings: Object = {name.removeprefix("--").replace("-", "_"): value for name, _, value in flags}
    return {
        "id": name,
        "deployment": deployment.metadata.name,
        "model": deployment.spec.model.name,
        "role": role.name,
        "engine": {"kind": "sim", "profile": engine.profile, "settings": settings | {"port": ENGINE_PORT}},
        "host": "$(POD_IP)",
        "namespace": deployment.metadata.namespace,
        "revision": revision,
        "drains_by_registry": True,
        "drain_s": values.duration_s(deployment.spec.drain.timeout),
    }


def _variable(each: serving.EnvVar) -> Object:
    if each.secret_key_ref is None:
        return {"name": each.name, "value": each.value}
    reference = {"name": each.secret_key_ref.name, "key": each.secret_key_ref.key}
    return {"name": each.name, "valueFrom": {"secretKeyRef": reference}}


def _placement(
    placement: operation.Placement, labels: dict[str, str], profile: acceleratorprofile.AcceleratorProfile | None
) -> Object:
    """The Pod's own fields for where it may run; what is not given is left out."""
    given: Object = {
        "nodeSelector": {**(profile.spec.node_selector if profile else {}), **placement.node_selector},
        "tolerations": [each.model_dump(by_alias=True, exclude_none=True) for each in placement.tolerations],
        "topologySpreadConstraints": [
            {**each.model_dump(by_alias=True), "labelSelector": {"matchLabels": labels}}
            for each in placement.topology_spread
        ],
        "priorityClassName": placement.priority_class_name,
        "schedulerName": placement.scheduler_name,
        "runtimeClassName": placement.runtime_class_name,
        "serviceAccountName": placement.service_account_name,
        "imagePullSecrets": [{"name": each.name} for each in placement.image_pull_secrets],
    }
    return {key: value for key, value in given.items() if value}


def observed(
    found: Object, registered: types.WorkerState | None, registry: bool, default_revision: str = ""
) -> workers.Worker:
    """A worker as its Pod and the registry show it. It is ready where both say so, or the Pod while it cannot be asked.

    `default_revision` is that of a Pod that an operator made which knew no revisions.
    """
    meta, status = found["metadata"], found.get("status", {})
    labels = meta.get("labels") or {}
    conditions = {each["type"]: each for each in status.get("conditions", ())}
    ready = conditions.get("Ready", {})
    drain = (meta.get("annotations") or {}).get(DRAIN_ANNOTATION)
    phase = _PHASES.get(status.get("phase", "Pending"), workers.Phase.RUNNING)
    problem, faulty = _problem(meta["name"], status, conditions)
    scheduled = conditions.get("PodScheduled", {})
    containers = [*status.get("containerStatuses", ()), *status.get("initContainerStatuses", ())]
    answers = ready.get("status") == "True"
    started = phase is workers.Phase.RUNNING and all(
        each.get("started") for each in status.get("containerStatuses", ({},))
    )
    return workers.Worker(
        name=meta["name"],
        role=labels.get(ROLE_LABEL, ""),
        phase=phase,
        created_s=unix_s(meta["creationTimestamp"]),
        ready=answers and (registered is types.WorkerState.READY or not registry),
        deleting="deletionTimestamp" in meta,
        draining_since_s=unix_s(drain) if drain else None,
        registered=registered,
        problem=problem,
        revision=labels.get(REVISION_LABEL, default_revision),
        accelerator=labels.get(ACCELERATOR_LABEL, ""),
        gone_by_s=unix_s(meta["deletionTimestamp"]) if "deletionTimestamp" in meta else None,
        unschedulable_since_s=_since_s(scheduled) if scheduled.get("status") == "False" else None,
        unready_since_s=_since_s(ready) if started and not answers else None,
        restarts=max((int(each.get("restartCount", 0)) for each in containers), default=0),
        faulty=faulty,
    )


_PHASES = {
    "Pending": workers.Phase.PENDING,
    "Succeeded": workers.Phase.SUCCEEDED,
    "Failed": workers.Phase.FAILED,
}


def _since_s(condition: Object) -> float | None:
    at = condition.get("lastTransitionTime")
    return unix_s(at) if at else None


def _problem(name: str, status: Object, conditions: dict[str, Object]) -> tuple[str, bool]:
    """What Kubernetes says keeps a Pod from running, with the next step; and whether the worker itself is at fault."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return problems.of_scheduling(scheduled.get("reason", ""), scheduled.get("message", "")), False
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = container.get("state", {}).get("waiting", {})
        said = problems.of_container(name, waiting.get("reason", ""), waiting.get("message", ""))
        if said:
            return said, True
    return "", False


def unix_s(text: str) -> float:
    """Seconds since the epoch of a time as Kubernetes writes it."""
    return datetime.datetime.fromisoformat(text).timestamp()


def timestamp(now_s: float) -> str:
    """A time as Kubernetes writes it, to the second."""
    return datetime.datetime.fromtimestamp(now_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""Worker Pods: their names for things, and what is read of one that is there. Pure."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from operators import sources
from operators.policy import problems, workers
from penstock.api import types
from penstock.api.crds import base, modeldeployment

Object = dict[str, Any]

DEPLOYMENT_LABEL = "penstock.dev/deployment"
ROLE_LABEL = "penstock.dev/role"
REVISION_LABEL = "penstock.dev/revision"
# The container of the agent, where it has one of its own.
AGENT = "agent"
ENGINE = "engine"
WORKER_LABEL = "penstock.dev/worker"
ACCELERATOR_LABEL = "penstock.dev/accelerator"
DRAIN_ANNOTATION = "penstock.dev/drain-since"
REDIS_CA_FOLDER = "/etc/penstock-redis-ca"
AGENT_TLS_FOLDER = "/etc/penstock-agent-tls"


@dataclasses.dataclass(frozen=True)
class WorkerHost:
    """What every worker Pod gets from the installation: image and where the registry is (a Secret with its URL)."""

    image: str
    redis_secret: str
    redis_key: str = "url"
    vllm_image: str = ""
    # Secret with the CA of Redis, which the URL names as a file of REDIS_CA_FOLDER; empty for none.
    redis_ca_secret: str = ""
    # Service of the gateways' endpoint picker, as `namespace/name:port` or `name:port`; empty for none.
    picker: str = ""
    # Secret with certificate, key and CA of the agents' gRPC API; empty for no API.
    agent_tls_secret: str = ""
    # Secrets for the registry of these images, in each namespace with workers.
    pull_secrets: tuple[str, ...] = ()


UnsupportedError = sources.UnsupportedError


def selector(deployment: str, role: str) -> dict[str, str]:
    """Labels that all workers of a role have, of whatever revision."""
    return {"app.kubernetes.io/name": "penstock-worker", DEPLOYMENT_LABEL: deployment, ROLE_LABEL: role}


def labels_of(deployment: modeldeployment.ModelDeployment, create: workers.Create) -> dict[str, str]:
    """All labels of a worker."""
    found = selector(deployment.metadata.name, create.role)
    found |= {WORKER_LABEL: create.worker, REVISION_LABEL: create.revision}
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


def observed(
    found: Object,
    registered: types.WorkerState | None,
    registry: bool,
    default_revision: str = "",
    now_s: float = 0.0,
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
    problem, faulty = _problem(meta["name"], status, conditions, now_s)
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
        # The agent's are the registry's or the installation's fault, not the revision's.
        restarts=max((int(each.get("restartCount", 0)) for each in containers if each.get("name") != AGENT), default=0),
        faulty=faulty,
        ended=_ended_well(status, AGENT),
        engine_ended=_ended_well(status, ENGINE),
    )


# What a Pod's containers wait for has come by then: volumes, Secrets, its network. Images are pulled after that.
_VOLUMES_S = 60.0
_PHASES = {
    "Pending": workers.Phase.PENDING,
    "Succeeded": workers.Phase.SUCCEEDED,
    "Failed": workers.Phase.FAILED,
}


def _ended_well(status: Object, name: str) -> bool:
    """Whether a container of a Pod has ended with 0, as an agent does that has drained its worker."""
    return any(
        each.get("name") == name and each.get("state", {}).get("terminated", {}).get("exitCode") == 0
        for each in status.get("containerStatuses", ())
    )


def _since_s(condition: Object) -> float | None:
    at = condition.get("lastTransitionTime")
    return unix_s(at) if at else None


def _problem(name: str, status: Object, conditions: dict[str, Object], now_s: float) -> tuple[str, bool]:
    """What Kubernetes says keeps a Pod from running, with the next step; and whether the worker itself is at fault."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return problems.of_scheduling(scheduled.get("reason", ""), scheduled.get("message", "")), False
    found = []
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = container.get("state", {}).get("waiting", {})
        said = problems.of_container(name, waiting.get("reason", ""), waiting.get("message", ""))
        if said:
            found.append((said, container.get("name") != AGENT))
    if found:
        # The agent's own is told where there is no other.
        return next((each for each in found if each[1]), found[0])
    # The condition is False again when all has ended.
    unmade = (
        conditions.get("PodReadyToStartContainers", {}).get("status") == "False" and status.get("phase") == "Pending"
    )
    since_s = _since_s(scheduled) if unmade and scheduled.get("status") == "True" else None
    if since_s is not None and now_s - since_s > _VOLUMES_S:
        return problems.of_volumes(name), False
    if status.get("phase") == "Failed" and status.get("reason"):
        return problems.of_failure(name, status["reason"], status.get("message", "")), False
    if _ended_well(status, ENGINE) and not _ended_well(status, AGENT):
        return problems.of_engine_end(name), True
    return "", False


def unix_s(text: str) -> float:
    """Seconds since the epoch of a time as Kubernetes writes it."""
    return datetime.datetime.fromisoformat(text).timestamp()


def timestamp(now_s: float) -> str:
    """A time as Kubernetes writes it, to the second."""
    return datetime.datetime.fromtimestamp(now_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

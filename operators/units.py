"""Workers as objects: a Pod, or one RayCluster whose ranks span several nodes and live and end together. Pure."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from operators import build, cache, engines, images, pods, rayserve, sight
from operators.policy import problems, workers
from penstock.api import types
from penstock.api.crds import acceleratorprofile, modeldeployment

Object = dict[str, Any]
Profile = acceleratorprofile.AcceleratorProfile

# Letters of a name that KubeRay's operator takes.
_LONGEST = {sight.SERVED: 47, sight.UNIT: 53}
_NODE_TYPE = "ray.io/node-type"
# The containers' own commands start Ray by the command that KubeRay has generated.
_OWN_COMMAND = {"ray.io/overwrite-container-cmd": "true"}
_RAY_START = '/bin/bash -c "ulimit -n 65536; $KUBERAY_GEN_RAY_START_CMD"'
# An engine that was registered as ready had all its ranks.
_WHOLE = (types.WorkerState.READY, types.WorkerState.DRAINING)
# A rank that is so much younger than the engine is another than the one that the engine began with.
_LATE_S = 5.0
_COUNT = (
    "import ray, sys; ray.init(address='auto', log_to_driver=False); "
    "sys.exit(sum(n['Alive'] for n in ray.nodes()) < {nodes})"
)

# The name of the head goes with its unit at once, while its Pod still drains: the address is kept from the beginning.
_HEAD = "/tmp/penstock-head"
_KEEP_HEAD = f"""import os, socket
with open("{_HEAD}", "w") as kept:
    kept.write(socket.getaddrinfo(os.environ["FQ_RAY_IP"], None)[0][4][0])
"""
# A rank that is told to end (its node is drained, or the unit goes) stays for as long as the engine on the head answers, which
# ends when its last stream has: without the rank they would be cut. The kubelet ends the wait with the Pod's time.
_RANK_PRE_STOP = f"""import time, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
missed = 0
while missed < 3:
    try:
        address = open("{_HEAD}").read()
        host = "[" + address + "]" if ":" in address else address
        opener.open("http://" + host + ":{engines.ENGINE_PORT}/health", timeout=10).close()
        missed = 0
    except Exception:
        missed += 1
    time.sleep(0.5)
"""


def document(
    deployment: modeldeployment.ModelDeployment,
    create: workers.Create,
    host: pods.WorkerHost,
    profile: Profile | None,
) -> tuple[sight.Kind, Object]:
    """The object of a new worker. Raises `UnsupportedError`."""
    kind, made = _made(deployment, create, host, profile)
    most = _LONGEST.get(kind)
    if most is not None and len(create.worker) > most:
        raise pods.UnsupportedError(
            f"{create.worker} has {len(create.worker)} letters, and KubeRay takes a {kind.name} of at most {most} -> "
            "make a ModelDeployment of a shorter name, or with shorter names of roles"
        )
    return kind, images.recorded(made)


def _made(
    deployment: modeldeployment.ModelDeployment,
    create: workers.Create,
    host: pods.WorkerHost,
    profile: Profile | None,
) -> tuple[sight.Kind, Object]:
    role = next(each for each in deployment.spec.roles if each.name == create.role)
    if deployment.spec.hosting == "RayServe":
        return sight.SERVED, rayserve.document(deployment, create, host, profile)
    parallel, _ = build.parallelism_of(deployment, role, profile)
    if parallel.nodes == 1:
        return sight.POD, build.pod(deployment, create, host, profile)
    return sight.UNIT, _unit(deployment, create, host, profile, parallel.nodes)


def _unit(
    deployment: modeldeployment.ModelDeployment,
    create: workers.Create,
    host: pods.WorkerHost,
    profile: Profile | None,
    nodes: int,
) -> Object:
    """A RayCluster: the head has rank 0, the engine's server and the agent; the others are ranks."""
    meta = deployment.metadata
    labels = pods.labels_of(deployment, create)
    head = build.pod_spec(deployment, create, host, profile)
    engine = head["containers"][0]
    serve = shlex.join(engine["command"])
    rank = {key: value for key, value in engine.items() if key not in ("lifecycle", "ports") and "Probe" not in key}
    rank |= {
        "name": "rank",
        "command": ["/bin/bash", "-c", f"python3 -c {shlex.quote(_KEEP_HEAD)}; exec {_RAY_START}"],
        "lifecycle": {"preStop": {"exec": {"command": ["python3", "-c", _RANK_PRE_STOP]}}},
    }
    count = shlex.quote(_COUNT.format(nodes=nodes))
    # All ranks or none: the engine begins when every node has joined.
    engine["command"] = [
        "/bin/bash", "-c", f"{_RAY_START} & until python3 -c {count}; do sleep 2; done; exec {serve}",
    ]  # fmt: skip
    worker = {key: value for key, value in head.items() if key != "containers"} | {"containers": [rank]}
    template = {"metadata": {"labels": labels}}
    group = {
        "groupName": "ranks",
        "replicas": nodes - 1,
        "minReplicas": nodes - 1,
        "maxReplicas": nodes - 1,
        "rayStartParams": {},
        "template": template | {"spec": worker},
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {
            "name": create.worker,
            "namespace": meta.namespace,
            "labels": labels,
            "annotations": _OWN_COMMAND,
            "ownerReferences": [pods.owner(deployment)],
        },
        "spec": {
            "headGroupSpec": {"rayStartParams": {}, "template": template | {"spec": head}},
            "workerGroupSpecs": [group],
        },
    }


def observed(
    seen: sight.Seen,
    states: Mapping[str, types.WorkerState],
    *,
    registry: bool,
    default_revision: str,
    now_s: float = 0.0,
) -> tuple[workers.Worker, ...]:
    """All workers, of either kind."""
    found = [
        pods.observed(each, states.get(each["metadata"]["name"]), registry, default_revision, now_s)
        for each in seen.of(sight.POD)
    ]
    for each in (*seen.of(sight.UNIT), *seen.of(sight.SERVED)):
        name = each["metadata"]["name"]
        ranks = [rank for rank in seen.ranks if _worker_of(rank) == name and _is_of(rank, each)]
        found.append(_observed(each, ranks, states.get(name), registry, default_revision, now_s))
    return (*found, *_remains(seen, {each.name for each in found}))


def _worker_of(rank: Object) -> str:
    """The worker that a Pod is a rank of."""
    return str((rank["metadata"].get("labels") or {}).get(pods.WORKER_LABEL, ""))


def _is_of(rank: Object, unit: Object) -> bool:
    """Whether a Pod belongs to this unit, and not to one before it of the same name."""
    # Between a RayService and its Pods there is a cluster of another name.
    return "serveConfigV2" in unit["spec"] or cache.owner_uid(rank) == unit["metadata"]["uid"]


def _remains(seen: sight.Seen, known: Collection[str]) -> list[workers.Worker]:
    """Units that are gone while Pods of theirs still end.

    Each keeps its name, for KubeRay takes Pods by the name of their cluster, and its accelerators.
    """
    left: dict[str, list[Object]] = {}
    for rank in seen.ranks:
        name = _worker_of(rank)
        if name and name not in known and any(each["kind"] == "RayCluster" for each in _owners(rank)):
            left.setdefault(name, []).append(rank)
    found = []
    for name, ranks in left.items():
        ends = [each["metadata"].get("deletionTimestamp") for each in ranks]
        last_s = None if None in ends else max(pods.unix_s(each) for each in ends)
        first = pods.observed(ranks[0], None, False)
        found.append(dataclasses.replace(first, name=name, ready=False, deleting=True, problem="", gone_by_s=last_s))
    return found


def _owners(found: Object) -> Sequence[Object]:
    owners: Sequence[Object] = found["metadata"].get("ownerReferences") or ()
    return owners


def _observed(
    unit: Object,
    ranks: Sequence[Object],
    registered: types.WorkerState | None,
    registry: bool,
    default_revision: str,
    now_s: float,
) -> workers.Worker:
    """One unit, as its head and what keeps any of its ranks show it."""
    meta = unit["metadata"]
    head = next((each for each in ranks if each["metadata"]["labels"].get(_NODE_TYPE) == "head"), None)
    # The unit's own marks with the head's state: a Pod of the unit's name.
    stands_for = {
        "metadata": meta,
        "status": head.get("status", {}) if head is not None else {"phase": "Pending"},
    }
    worker = pods.observed(stands_for, registered, registry, default_revision, now_s)
    others = [pods.observed(each, None, False, now_s=now_s) for each in ranks if each is not head]
    waits = [each.unschedulable_since_s for each in others if each.unschedulable_since_s is not None]
    problem = worker.problem or next((each.problem for each in others if each.problem), "") or _refused(unit)
    return dataclasses.replace(
        worker,
        problem=problem,
        faulty=worker.faulty or any(each.faulty for each in others),
        unschedulable_since_s=worker.unschedulable_since_s or min(waits, default=None),
        broken=registered in _WHOLE and _broken(unit, head, ranks),
    )


def _refused(unit: Object) -> str:
    """Why KubeRay could not make a Pod of a unit, as it says itself."""
    for each in unit.get("status", {}).get("conditions", ()):
        if each["type"] == "ReplicaFailure" and each["status"] == "True":
            return problems.of_refusal(each.get("message", ""))[1]
    return ""


def _broken(unit: Object, head: Object | None, ranks: Sequence[Object]) -> bool:
    """Whether a unit that was whole has lost a rank. KubeRay makes a new Pod for it, but the engine's group is lost.

    What Serve hosts has one node, and Serve mends it.
    """
    if "serveConfigV2" in unit["spec"]:
        return False
    whole_s = _ready_since_s(head)
    if whole_s is None or head is None:
        return False
    wanted = 1 + sum(int(each.get("replicas", 0)) for each in unit["spec"].get("workerGroupSpecs", ()))
    live = [
        each
        for each in ranks
        if "deletionTimestamp" not in each["metadata"] and each.get("status", {}).get("phase") in ("Running", "Pending")
    ]
    late = any(pods.unix_s(each["metadata"]["creationTimestamp"]) > whole_s + _LATE_S for each in live)
    restarted = any(
        int(each.get("restartCount", 0)) > 0
        for rank in live
        if rank is not head
        for each in rank.get("status", {}).get("containerStatuses", ())
    )
    return len(live) < wanted or late or restarted


def _ready_since_s(head: Object | None) -> float | None:
    """Since when the engine on the head answers; None where it does not."""
    for each in (head or {}).get("status", {}).get("conditions", ()):
        if each["type"] == "Ready" and each["status"] == "True" and each.get("lastTransitionTime"):
            return pods.unix_s(each["lastTransitionTime"])
    return None


def addresses(seen: sight.Seen) -> dict[str, tuple[str, str]]:
    """Where each worker's engine is reached, and in which Pod; workers without an address are left out."""
    found = {each["metadata"]["name"]: _place(each) for each in seen.of(sight.POD)}
    known = {each["metadata"]["name"]: each for kind in (sight.UNIT, sight.SERVED) for each in seen.of(kind)}
    for rank in seen.ranks:
        unit = known.get(_worker_of(rank))
        if unit and rank["metadata"]["labels"].get(_NODE_TYPE) == "head" and _is_of(rank, unit):
            found[_worker_of(rank)] = _place(rank)
    return {name: place for name, place in found.items() if place[0]}


def _place(pod: Object) -> tuple[str, str]:
    return pod.get("status", {}).get("podIP", ""), pod["metadata"]["name"]

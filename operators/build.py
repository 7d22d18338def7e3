"""The Pod of a worker: an engine and its agent, or both in one process where the engine is simulated. Pure."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from operators import engines, pods, sources
from operators.policy import workers
from penstock.api.crds import acceleratorprofile, modeldeployment, operation, serving, values

Object = dict[str, Any]
Profile = acceleratorprofile.AcceleratorProfile

AGENT_PORT = 8001
CONTROL_PORT = 8002
# After the drain's own deadline: to cut what is left, deregister and end.
GRACE_S = 30
_PROBE_S = 5
# Of the engine's image, which has Python as its engine does. The agent answers within the Pod only.
_PRE_STOP = f"""import time, urllib.request
# No proxy of the engine's environment between.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
for again_s in (0.5, 1, 2, 0):
    try:
        opener.open("http://127.0.0.1:{AGENT_PORT}/drain")
        break
    except OSError:
        # The agent is starting (again), or it has ended: it was told as well, and there is nothing to wait for.
        time.sleep(again_s)
"""
_USER = 65532
# Of the engine's own files: caches of compiled kernels, settings, locks.
HOME = "/home/penstock"


def security(user: int = _USER) -> Object:
    """What a container may: as Pod Security `restricted` has it, unless the user is root."""
    return {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": user != 0,
        # As numbers: of a name a kubelet cannot tell that it is not root.
        "runAsUser": user,
        "runAsGroup": user,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def sealed(user: int = _USER) -> Object:
    """The same for our own programs, which write nothing outside of volumes."""
    return security(user) | {"readOnlyRootFilesystem": True}


# Of a whole Pod: also for containers that others add, such as KubeRay. Volumes are the group's.
POD_SECURITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "runAsGroup": _USER,
    "fsGroup": _USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(
    deployment: modeldeployment.ModelDeployment,
    create: workers.Create,
    host: pods.WorkerHost,
    profile: Profile | None = None,
) -> Object:
    """The Pod of a new worker; `profile` is the hardware that it is placed on. Raises `UnsupportedError`."""
    meta = deployment.metadata
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": create.worker,
            "namespace": meta.namespace,
            "labels": pods.labels_of(deployment, create),
            "ownerReferences": [pods.owner(deployment)],
        },
        "spec": pod_spec(deployment, create, host, profile),
    }


def pod_spec(
    deployment: modeldeployment.ModelDeployment,
    create: workers.Create,
    host: pods.WorkerHost,
    profile: Profile | None,
) -> Object:
    """What the Pod runs, and where it may."""
    spec = deployment.spec
    role = next(each for each in spec.roles if each.name == create.role)
    drain_s = math.ceil(values.duration_s(spec.drain.timeout))
    simulated = spec.engine.kind == "sim"
    parts = (
        _simulated(deployment, role, create, host, profile)
        if simulated
        else _real(deployment, role, create, host, profile)
    )
    return {
        # A drained worker ends with 0 and stays ended; what fails is started again in its place. An engine that ends with 0
        # by itself is replaced with its Pod.
        "restartPolicy": "OnFailure",
        "terminationGracePeriodSeconds": drain_s + GRACE_S,
        "automountServiceAccountToken": False,
        # Or each Service of the namespace would be told in a dozen variables.
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        **with_agent_tls(with_redis_ca(parts, host), host),
        **placement(spec.placement, pods.selector(deployment.metadata.name, role.name), profile, host.pull_secrets),
    }


def parallelism_of(
    deployment: modeldeployment.ModelDeployment, role: serving.Role, profile: Profile | None
) -> tuple[serving.Parallelism, tuple[str, ...]]:
    """How the worker is spread, and the flags of its hardware: the accelerator's own, the role's, the deployment's."""
    parallel, args = role.parallelism or deployment.spec.parallelism, ()
    for each in role.accelerators or deployment.spec.accelerators:
        if profile is not None and each.profile == profile.metadata.name:
            return each.parallelism or parallel, each.args
    return parallel, args


def devices(parallel: serving.Parallelism, profile: Profile | None) -> Object:
    """The accelerators that a Pod asks for. Raises `UnsupportedError` where no node has as many."""
    if profile is None:
        return {}
    count = parallel.tensor * parallel.pipeline * parallel.data // parallel.nodes
    if count > profile.spec.per_node:
        raise pods.UnsupportedError(
            f"a worker needs {count} accelerators on a node, and {profile.metadata.name} has {profile.spec.per_node} "
            "(spec.perNode) -> raise parallelism.nodes, or lower tensor, pipeline or data"
        )
    return {profile.spec.resource_name: str(count)}


def _simulated(
    deployment: modeldeployment.ModelDeployment,
    role: serving.Role,
    create: workers.Create,
    host: pods.WorkerHost,
    profile: Profile | None,
) -> Object:
    """One container: the engine is inside of the agent."""
    parallel, _ = parallelism_of(deployment, role, profile)
    spec = worker_spec(deployment, role, create) | control(host)
    container = {
        "name": "worker",
        "image": deployment.spec.engine.image or host.image,
        "command": ["python", "-m", "workers.hosting"],
        "env": [*map(variable, deployment.spec.engine.env), *_agent_env(spec, host)],
        "ports": [{"name": "http", "containerPort": engines.ENGINE_PORT}],
        "resources": resources(deployment, role, devices(parallel, profile)),
        **_probes(deployment),
        "securityContext": sealed(deployment.spec.engine.run_as_user),
    }
    return {"containers": [container]}


@dataclasses.dataclass(frozen=True)
class EngineParts:
    """How an engine that somebody else has written is started in a container, and what it needs there."""

    start: engines.Start
    env: Sequence[Object]
    mounts: Sequence[Object]
    volumes: Sequence[Object]
    download: Object | None
    # Folder of a model that others' cleaning up is kept from, and what of the mounts it is in.
    kept: str = ""
    kept_mounts: Sequence[Object] = ()


def engine_parts(
    deployment: modeldeployment.ModelDeployment, role: serving.Role, host: pods.WorkerHost, profile: Profile | None
) -> EngineParts:
    """Its command, variables, files and folders. Raises `UnsupportedError`."""
    model, engine = deployment.spec.model, deployment.spec.engine
    files = sources.files(model, host.image, sealed())
    parallel, args = parallelism_of(deployment, role, profile)
    start = engines.STARTS[engine.kind](engines.Case(deployment, role, parallel, args, files.path))
    shared = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(_asked(deployment, role).shared_memory)}}
    own = {} if engine.run_as_user == 0 else {"home": HOME, "tmp": "/tmp"}
    given = {each.name for each in engine.env}
    # Without a name, programs that ask who they are end: nobody has this number in the image.
    names = {"HOME": HOME, "USER": "penstock"} if own else {}
    env = [*((name, value) for name, value in names.items() if name not in given), *start.env]
    return EngineParts(
        start,
        [*({"name": name, "value": value} for name, value in env), *map(variable, engine.env)],
        [
            *files.mounts,
            {"name": "shm", "mountPath": "/dev/shm"},
            *({"name": name, "mountPath": path} for name, path in own.items()),
        ],
        [*files.volumes, shared, *({"name": name, "emptyDir": {}} for name in own)],
        files.download,
        *((files.path, files.mounts) if files.download and model.cache is not None else ("", ())),
    )


def _real(
    deployment: modeldeployment.ModelDeployment,
    role: serving.Role,
    create: workers.Create,
    host: pods.WorkerHost,
    profile: Profile | None,
) -> Object:
    """The engine's container, the agent's beside it, and the download before both."""
    engine = deployment.spec.engine
    parts = engine_parts(deployment, role, host, profile)
    parallel, _ = parallelism_of(deployment, role, profile)
    container = {
        "name": "engine",
        "image": image_of(deployment, host),
        "command": list(parts.start.command),
        "env": list(parts.env),
        "ports": [{"name": "http", "containerPort": engines.ENGINE_PORT}],
        "resources": resources(deployment, role, devices(parallel, profile)),
        **_probes(deployment),
        # Kubernetes tells both containers to end at once; the engine's stays until its last stream has ended.
        "lifecycle": {"preStop": {"exec": {"command": ["python3", "-c", _PRE_STOP]}}},
        "volumeMounts": list(parts.mounts),
        "securityContext": security(engine.run_as_user),
    }
    return {
        "containers": [container, agent(deployment, role, create, host, parts)],
        **({"initContainers": [parts.download]} if parts.download else {}),
        "volumes": list(parts.volumes),
    }


def with_redis_ca(parts: Object, host: pods.WorkerHost) -> Object:
    """The CA's file for the container that speaks to Redis."""
    if not host.redis_ca_secret:
        return parts
    volume = {"name": "redis-ca", "secret": {"secretName": host.redis_ca_secret}}
    return _mounted(parts, volume, pods.REDIS_CA_FOLDER)


def with_agent_tls(parts: Object, host: pods.WorkerHost) -> Object:
    """The files of the agent's gRPC API. Without the Secret the worker serves all the same, and has no such API."""
    if not host.agent_tls_secret:
        return parts
    volume = {"name": "agent-tls", "secret": {"secretName": host.agent_tls_secret, "optional": True}}
    return _mounted(parts, volume, pods.AGENT_TLS_FOLDER)


def control(host: pods.WorkerHost) -> Object:
    """What makes an agent serve its gRPC API, where there are certificates."""
    return {"control_port": CONTROL_PORT, "control_tls": pods.AGENT_TLS_FOLDER} if host.agent_tls_secret else {}


def _mounted(parts: Object, volume: Object, folder: str) -> Object:
    """With a volume for the agent; the engine sees nothing of it."""
    mount = {"name": volume["name"], "mountPath": folder, "readOnly": True}
    containers = [
        {**each, "volumeMounts": [*each.get("volumeMounts", ()), mount]} if each["name"] != "engine" else each
        for each in parts["containers"]
    ]
    return {**parts, "containers": containers, "volumes": [*parts.get("volumes", ()), volume]}


def image_of(deployment: modeldeployment.ModelDeployment, host: pods.WorkerHost) -> str:
    """The engine's image. Raises `UnsupportedError` where none is given and none was tested."""
    engine = deployment.spec.engine
    found = engine.image or {"vllm": host.vllm_image}.get(engine.kind, "")
    if not found:
        raise pods.UnsupportedError(f"engine.image must be given for {engine.kind}: no image of it was tested")
    return found


def agent(
    deployment: modeldeployment.ModelDeployment,
    role: serving.Role,
    create: workers.Create,
    host: pods.WorkerHost,
    parts: EngineParts,
) -> Object:
    """The agent's container: it registers the engine beside it, keeps its lease, relays its KV events, drains it."""
    spec = beside_spec(deployment, role, create, parts) | {"agent_port": AGENT_PORT, **control(host)}
    probe = {"httpGet": {"path": "/healthz", "port": AGENT_PORT}}
    return {
        "name": pods.AGENT,
        "image": host.image,
        "command": ["python", "-m", "workers.hosting"],
        "env": _agent_env(spec, host),
        "ports": [{"name": "agent", "containerPort": AGENT_PORT}],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        "securityContext": sealed(),
        **({"volumeMounts": list(parts.kept_mounts)} if parts.kept_mounts else {}),
    }


def beside_spec(
    deployment: modeldeployment.ModelDeployment, role: serving.Role, create: workers.Create, parts: EngineParts
) -> Object:
    """The same for a worker whose engine is a program of its own, on the same network."""
    engine = deployment.spec.engine
    found = worker_spec(deployment, role, create) | {
        "engine": {"kind": engine.kind, "profile": engine.profile},
        "engine_url": f"http://127.0.0.1:{engines.ENGINE_PORT}",
    }
    if parts.kept:
        found["model_folder"] = parts.kept
    if parts.start.events:
        found["kv_events"] = f"tcp://127.0.0.1:{engines.EVENTS_PORT}"
        found["kv_replay"] = f"tcp://127.0.0.1:{engines.REPLAY_PORT}"
    return found


def worker_spec(deployment: modeldeployment.ModelDeployment, role: serving.Role, create: workers.Create) -> Object:
    """What `python -m workers.hosting` reads. Kubernetes puts the Pod's address in place of $(POD_IP)."""
    engine = deployment.spec.engine
    flags = (each.partition("=") for each in (*engine.args, *role.args))
    settings: Object = {name.removeprefix("--").replace("-", "_"): value for name, _, value in flags}
    return {
        "id": create.worker,
        "deployment": deployment.metadata.name,
        "model": deployment.spec.model.name,
        "role": role.name,
        "engine": {"kind": "sim", "profile": engine.profile, "settings": settings | {"port": engines.ENGINE_PORT}},
        "host": "$(POD_IP)",
        "namespace": deployment.metadata.namespace,
        "revision": create.revision,
        "drains_by_registry": True,
        "drain_s": values.duration_s(deployment.spec.drain.timeout),
    }


def resources(deployment: modeldeployment.ModelDeployment, role: serving.Role, accelerators: Object) -> Object:
    """CPU, memory and accelerators of an engine's container."""
    asked = _asked(deployment, role)
    requests = {"cpu": str(asked.cpu), "memory": str(asked.memory), **accelerators}
    return {"requests": requests, "limits": {"memory": str(asked.memory), **accelerators}}


def _asked(deployment: modeldeployment.ModelDeployment, role: serving.Role) -> serving.Resources:
    return role.resources or deployment.spec.engine.resources


def _probes(deployment: modeldeployment.ModelDeployment) -> Object:
    """An engine has its start's whole time; after that it is out of the Service after 15 s, and started anew after 2 min."""
    probe = {
        "httpGet": {"path": "/health", "port": engines.ENGINE_PORT},
        "periodSeconds": _PROBE_S,
        "timeoutSeconds": 3,
    }
    tries = math.ceil(values.duration_s(deployment.spec.engine.start_timeout) / _PROBE_S)
    return {
        "startupProbe": {**probe, "failureThreshold": tries},
        "readinessProbe": {**probe, "failureThreshold": 3},
        "livenessProbe": {**probe, "failureThreshold": 24},
    }


def _agent_env(spec: Object, host: pods.WorkerHost) -> list[Object]:
    return [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "PENSTOCK_WORKER_SPEC", "value": json.dumps(spec)},
        {
            "name": "PENSTOCK_WORKER_REDIS_URL",
            "valueFrom": {"secretKeyRef": {"name": host.redis_secret, "key": host.redis_key}},
        },
    ]


def variable(each: serving.EnvVar) -> Object:
    """One variable of the engine, by value or from a Secret."""
    if each.secret_key_ref is None:
        return {"name": each.name, "value": each.value}
    reference = {"name": each.secret_key_ref.name, "key": each.secret_key_ref.key}
    return {"name": each.name, "valueFrom": {"secretKeyRef": reference}}


def placement(
    given: operation.Placement, labels: dict[str, str], profile: Profile | None, pull_secrets: Sequence[str]
) -> Object:
    """The Pod's own fields for where it may run; what is not given is left out. `pull_secrets` are the installation's."""
    pulls = dict.fromkeys([*(each.name for each in given.image_pull_secrets), *pull_secrets])
    found: Object = {
        "nodeSelector": {**(profile.spec.node_selector if profile else {}), **given.node_selector},
        "tolerations": [each.model_dump(by_alias=True, exclude_none=True) for each in given.tolerations],
        "topologySpreadConstraints": [
            {**each.model_dump(by_alias=True), "labelSelector": {"matchLabels": labels}}
            for each in given.topology_spread
        ],
        "priorityClassName": given.priority_class_name,
        "schedulerName": given.scheduler_name,
        "runtimeClassName": given.runtime_class_name,
        "serviceAccountName": given.service_account_name,
        "imagePullSecrets": [{"name": each} for each in pulls],
    }
    return {key: value for key, value in found.items() if value}

"""A worker hosted by Ray Serve: a RayService of one application, which Serve watches and starts again. Pure."""

from __future__ import annotations

import json
import math
from typing import Any

import yaml

from operators import build, engines, pods
from operators.policy import workers
from penstock.api.crds import acceleratorprofile, modeldeployment, serving, values

Object = dict[str, Any]

# Serve's own HTTP proxy: no request passes through it, and the engine has the usual port.
PROXY_PORT = 8100


def document(
    deployment: modeldeployment.ModelDeployment,
    create: workers.Create,
    host: pods.WorkerHost,
    profile: acceleratorprofile.AcceleratorProfile | None,
) -> Object:
    """The RayService of a new worker. Raises `UnsupportedError`."""
    spec, meta = deployment.spec, deployment.metadata
    role = next(each for each in spec.roles if each.name == create.role)
    labels = pods.labels_of(deployment, create)
    parts = None if spec.engine.kind == "sim" else build.engine_parts(deployment, role, host, profile)
    pod = _pod(deployment, role, host, profile, parts)
    if parts is None:
        worker = build.worker_spec(deployment, role, create)
    else:
        start_s = values.duration_s(spec.engine.start_timeout)
        started = {"command": list(parts.start.command), "start_s": start_s, "num_gpus": _gpus(pod)}
        worker = build.beside_spec(deployment, role, create, parts) | started
        # The replica's package is in the user's image, and may be older than this field.
        worker.pop("model_folder", None)
    worker |= {"host": "auto", **build.control(host)}
    application = {
        "name": "worker",
        "route_prefix": "/",
        "import_path": "workers.serve:build",
        "args": {"spec": json.dumps(worker)},
    }
    served = {"http_options": {"host": "0.0.0.0", "port": PROXY_PORT}, "applications": [application]}
    # What Serve and the agent need of Ray's own count, which a small request would round to nothing.
    start = {"dashboard-host": "0.0.0.0", "num-cpus": "1"}
    head = {"rayStartParams": start, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {
            "name": create.worker,
            "namespace": meta.namespace,
            "labels": labels,
            "ownerReferences": [pods.owner(deployment)],
        },
        "spec": {"serveConfigV2": yaml.safe_dump(served), "rayClusterConfig": {"headGroupSpec": head}},
    }


def _pod(
    deployment: modeldeployment.ModelDeployment,
    role: serving.Role,
    host: pods.WorkerHost,
    profile: acceleratorprofile.AcceleratorProfile | None,
    parts: build.EngineParts | None,
) -> Object:
    """What the only node of its Ray runs: Serve's replica, and an engine that is a program of its own as a child of that."""
    spec, meta = deployment.spec, deployment.metadata
    parallel, _ = build.parallelism_of(deployment, role, profile)
    own = {"home": build.HOME, "tmp": "/tmp"}
    mounted = {each["name"] for each in parts.mounts} if parts is not None else set()
    folders = {name: path for name, path in own.items() if name not in mounted}
    given = list(parts.env) if parts is not None else list(map(build.variable, spec.engine.env))
    ours = _environment(host)
    container = {
        "name": "ray",
        "image": spec.engine.image,
        "env": [*(each for each in given if each["name"] not in {it["name"] for it in ours}), *ours],
        "ports": [
            {"name": "gcs-server", "containerPort": 6379},
            {"name": "dashboard", "containerPort": 8265},
            {"name": "serve", "containerPort": PROXY_PORT},
            {"name": "http", "containerPort": engines.ENGINE_PORT},
        ],
        "resources": build.resources(deployment, role, build.devices(parallel, profile)),
        "volumeMounts": [
            *(parts.mounts if parts is not None else ()),
            *({"name": name, "mountPath": path} for name, path in folders.items()),
        ],
        "securityContext": build.security(spec.engine.run_as_user),
    }
    pod = {
        "terminationGracePeriodSeconds": math.ceil(values.duration_s(spec.drain.timeout)) + build.GRACE_S,
        "automountServiceAccountToken": False,
        "securityContext": build.POD_SECURITY,
        "containers": [container],
        **({"initContainers": [parts.download]} if parts is not None and parts.download else {}),
        "volumes": [
            *(parts.volumes if parts is not None else ()),
            *({"name": name, "emptyDir": {}} for name in folders),
        ],
        **build.placement(spec.placement, pods.selector(meta.name, role.name), profile, host.pull_secrets),
    }
    return build.with_agent_tls(build.with_redis_ca(pod, host), host)


def _gpus(pod: Object) -> int:
    """What Ray counts as GPUs of the Pod: all of them are the engine's."""
    limits = pod["containers"][0]["resources"]["limits"]
    return sum(int(count) for name, count in limits.items() if name.endswith("/gpu"))


def _environment(host: pods.WorkerHost) -> list[Object]:
    """Ray's own, and the registry for the replica, which inherits it."""
    secret = {"name": host.redis_secret, "key": host.redis_key}
    own = {"RAY_USAGE_STATS_ENABLED": "0", "HOME": build.HOME, "USER": "penstock", "RAY_TMPDIR": build.HOME}
    return [
        *({"name": name, "value": value} for name, value in own.items()),
        {"name": "PENSTOCK_WORKER_REDIS_URL", "valueFrom": {"secretKeyRef": secret}},
    ]

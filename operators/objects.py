"""What a deployment owns beside its workers: disruption budgets, Service and EndpointSlices, InferencePool, HTTPRoute. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Sequence
from typing import Any

from operators import engines, pods
from operators.policy import workers
from penstock.api.crds import modeldeployment, operation, serving

Object = dict[str, Any]

# Kubernetes' own controller keeps slices this small, so that a change of one address is a small message.
SLICE_MAX = 100
SPEC_ANNOTATION = "penstock.dev/spec"


def budgets(deployment: modeldeployment.ModelDeployment) -> list[Object]:
    """One PodDisruptionBudget for each role: evictions take no more workers at a time than that.

    As the number that has to stay. From a `maxUnavailable` Kubernetes would ask the Pods' owners how many there should be: a
    RayCluster cannot say, which blocks every eviction, and a deployment says `spec.replicas`, whatever the roles' counts.
    """
    meta = deployment.metadata
    found = []
    for role in deployment.spec.roles:
        total = role.replicas * deployment.spec.replicas
        away = workers.of_percent(deployment.spec.placement.disruption_budget.max_unavailable, total, up=True)
        spec = {
            "minAvailable": max(0, total * _least_nodes(deployment, role) - away),
            "selector": {"matchLabels": pods.selector(meta.name, role.name)},
            # A worker that is not ready serves nobody: it does not hold up a node's drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        }
        found.append(
            _owned(deployment, "policy/v1", "PodDisruptionBudget", f"{meta.name}-{role.name}") | {"spec": spec}
        )
    return found


def _least_nodes(deployment: modeldeployment.ModelDeployment, role: serving.Role) -> int:
    """Pods of a worker, on the hardware where it has fewest: more than there are would have to stay otherwise."""
    usual = role.parallelism or deployment.spec.parallelism
    choices = role.accelerators or deployment.spec.accelerators
    return min([(each.parallelism or usual).nodes for each in choices], default=usual.nodes)


def service(deployment: modeldeployment.ModelDeployment) -> Object:
    """A headless Service without a selector: its addresses are the workers that take requests, not all that are up."""
    port = {"name": "http", "port": engines.ENGINE_PORT, "targetPort": engines.ENGINE_PORT, "protocol": "TCP"}
    spec = {"clusterIP": "None", "ports": [port]}
    return _owned(deployment, "v1", "Service", deployment.metadata.name) | {"spec": spec}


def pool(deployment: modeldeployment.ModelDeployment, picker: str) -> Object:
    """The InferencePool by which Gateways of the Gateway API send requests: the workers, and who chooses among them.

    `picker` is `name:port` of a Service in the same namespace. Without its answer nothing is sent: a worker that nobody
    has chosen may be one that drains.
    """
    name, _, port = picker.partition(":")
    spec = {
        "selector": {"matchLabels": {pods.DEPLOYMENT_LABEL: deployment.metadata.name}},
        "targetPorts": [{"number": engines.ENGINE_PORT}],
        "endpointPickerRef": {"name": name, "port": {"number": int(port)}, "failureMode": "FailClose"},
    }
    return _owned(deployment, "inference.networking.k8s.io/v1", "InferencePool", deployment.metadata.name) | {
        "spec": spec
    }


def route(deployment: modeldeployment.ModelDeployment, gateway: operation.Gateway) -> Object:
    """The HTTPRoute by which Gateways send requests to the pool of the deployment's name."""
    parents = [
        {"group": "gateway.networking.k8s.io", "kind": "Gateway", **each.model_dump(by_alias=True, exclude_none=True)}
        for each in gateway.parent_refs
    ]
    rule: Object = {
        "matches": [{"path": {"type": "PathPrefix", "value": gateway.path_prefix}}],
        "backendRefs": [
            {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": deployment.metadata.name}
        ],
        # A stream lasts as long as it lasts; an Envoy that is told nothing cuts it after 15 s.
        "timeouts": {"request": "0s"},
    }
    if gateway.path_prefix != "/":
        rewrite = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}
        rule["filters"] = [{"type": "URLRewrite", "urlRewrite": rewrite}]
    spec: Object = {"parentRefs": parents, "rules": [rule]}
    if gateway.hostnames:
        spec["hostnames"] = list(gateway.hostnames)
    made = _owned(deployment, "gateway.networking.k8s.io/v1", "HTTPRoute", deployment.metadata.name) | {"spec": spec}
    # What is left out now and was there before is seen by this alone.
    text = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
    made["metadata"]["annotations"] = {SPEC_ANNOTATION: text}
    return made


def slices(
    deployment: modeldeployment.ModelDeployment,
    members: Sequence[workers.Worker],
    addresses: dict[str, tuple[str, str]],
) -> list[Object]:
    """The EndpointSlices of the Service: a worker that drains finishes what it has and is not ready for more."""
    endpoints: dict[str, list[Object]] = {}
    for worker in sorted(members, key=lambda each: each.name):
        address, pod = addresses.get(worker.name, ("", ""))
        serves = worker.ready or (worker.draining_since_s is not None and worker.registered is not None)
        if not address or not serves:
            continue
        family = "IPv6" if ipaddress.ip_address(address).version == 6 else "IPv4"
        ready = worker.ready and worker.live
        endpoint = {
            "addresses": [address],
            "conditions": {"ready": ready, "serving": True, "terminating": not ready},
            "targetRef": {"kind": "Pod", "name": pod, "namespace": deployment.metadata.namespace},
        }
        endpoints.setdefault(family, []).append(endpoint)
    found = []
    for family, each in endpoints.items():
        for number in range(0, len(each), SLICE_MAX):
            name = f"{deployment.metadata.name}-{family.lower()}-{number // SLICE_MAX}"
            found.append(_slice(deployment, name, family, each[number : number + SLICE_MAX]))
    return found


def _slice(deployment: modeldeployment.ModelDeployment, name: str, family: str, endpoints: list[Object]) -> Object:
    made = _owned(deployment, "discovery.k8s.io/v1", "EndpointSlice", name)
    made["metadata"]["labels"] |= {
        "kubernetes.io/service-name": deployment.metadata.name,
        "endpointslice.kubernetes.io/managed-by": "penstock-operator",
    }
    port = {"name": "http", "port": engines.ENGINE_PORT, "protocol": "TCP"}
    return made | {"addressType": family, "ports": [port], "endpoints": endpoints}


def _owned(deployment: modeldeployment.ModelDeployment, version: str, kind: str, name: str) -> Object:
    meta = deployment.metadata
    labels = {pods.DEPLOYMENT_LABEL: meta.name, "app.kubernetes.io/managed-by": "penstock-operator"}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": meta.namespace,
            "labels": labels,
            "ownerReferences": [pods.owner(deployment)],
        },
    }


def covers(wanted: Any, found: Any) -> bool:
    """Whether `found` has all that is wanted, with what the server or others have added."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(covers(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(covers, wanted, found))
    return bool(wanted == found)

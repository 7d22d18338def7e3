"""The real KubeRay operator with real Ray Pods."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.cluster import tools
from tests.cluster.node import image, session
from tests.e2e.cluster import installed
from tests.support.load import Load

SPACE = "ray"


@pytest.fixture(scope="module")
def ray(cluster: session.RealCluster, kube: tools.Tools, kuberay_operator: None) -> Iterator[tools.Tools]:
    """kubectl in a namespace for Ray."""
    with cluster.entered():
        kube.kubectl("create", "namespace", SPACE)
        kube.kubectl("label", "namespace", SPACE, "pod-security.kubernetes.io/enforce=baseline")
        yield kube.within(SPACE)
        kube.kubectl("delete", "namespace", SPACE, "--wait=false")


def group(name: str = "") -> dict[str, Any]:
    """A group of one Ray node; without a name the head."""
    container = {
        "name": "ray",
        "image": image.RAY,
        "env": [{"name": key, "value": value} for key, value in ENVIRONMENT.items()],
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "3Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "home", "mountPath": "/home/ray"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    spec = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "home", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
    }
    start = {"num-cpus": "1", "object-store-memory": "100000000"}
    made: dict[str, Any] = {"rayStartParams": start, "template": {"spec": spec}}
    return made | ({"groupName": name, "replicas": 1, "minReplicas": 1, "maxReplicas": 1} if name else {})


ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "HOME": "/home/ray", "RAY_TMPDIR": "/home/ray"}


def test_a_ray_cluster_runs_and_a_lost_rank_is_rebuilt(ray: tools.Tools) -> None:
    """Head and worker are real Pods without rights that form one Ray; a worker that is deleted is back."""
    ray.apply(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {"name": "unit"},
            "spec": {"rayVersion": "2.60.0", "headGroupSpec": group(), "workerGroupSpecs": [group("ranks")]},
        }
    )
    ray.wait("--for=condition=RayClusterProvisioned", "raycluster/unit", timeout_s=180)
    head = ray.get("pods", "-l", "ray.io/node-type=head")[0]["metadata"]["name"]
    assert "0.0/2.0 CPU" in ray.kubectl("exec", head, "--", "ray", "status")
    lost = rank(ray)[0]["metadata"]
    ray.kubectl("delete", "pod", lost["name"], "--grace-period=1")
    tools.until("another rank", lambda: [e for e in rank(ray) if e["metadata"]["uid"] != lost["uid"]], 180)
    ray.kubectl("delete", "raycluster", "unit")
    tools.until("no Ray Pods", lambda: ray.get("pods", "-l", "ray.io/cluster=unit") == [])


def rank(ray: tools.Tools) -> list[dict[str, Any]]:
    """Worker Pods that are ready."""
    return [each for each in installed.pods(ray, "ray.io/node-type=worker") if installed.ready(each)]


SERVED = {
    "apiVersion": "penstock.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "served"},
    "spec": {
        "model": {"name": "served"},
        "hosting": "RayServe",
        "engine": {
            "kind": "sim",
            "profile": "cpu-tiny",
            "image": image.RAY,
            "resources": {"cpu": "200m", "memory": "2Gi"},
        },
        "drain": {"timeout": "60s"},
    },
}


# vLLM's name and flags, as a program in the image with Ray, behind a volume of files.
PROGRAM = {
    "apiVersion": "penstock.dev/v1alpha1",
    "kind": "ModelDeployment",
    "metadata": {"name": "program"},
    "spec": {
        "model": {"name": "program", "source": {"volume": {"claimName": "weights", "path": "/program"}}},
        "hosting": "RayServe",
        "engine": {
            "kind": "vllm",
            "profile": "cpu-tiny",
            "image": image.RAY,
            "resources": {"cpu": "200m", "memory": "2Gi", "sharedMemory": "64Mi"},
        },
        "kvCache": {"events": False},
    },
}
WEIGHTS = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "weights"},
    "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
}


@pytest.fixture(scope="module")
def release(ray: tools.Tools, cluster: session.RealCluster) -> Iterator[tools.Tools]:
    """The chart in the namespace for Ray."""
    with cluster.entered():
        installed.install(ray, cluster.folder)
        yield ray
        ray.kubectl("delete", "md", "--all", "--ignore-not-found")
        ray.helm("uninstall", "penstock", "--wait")


def uids(ray: tools.Tools) -> list[str]:
    """Those of all RayServices."""
    return [each["metadata"]["uid"] for each in ray.get("rayservices")]


def settled(ray: tools.Tools, count: int) -> bool:
    """Whether so many workers serve, all of the newest revision, and none more is there."""
    status = ray.get("md", "served")["status"]
    same = status["revision"] == status["updateRevision"] and status["workers"] == f"{count}/{count}"
    return same and len(uids(ray)) == count


def nodes(ray: tools.Tools) -> set[str]:
    """Where the workers' Pods are."""
    found = installed.pods(ray, "penstock.dev/deployment=served")
    return {each["spec"].get("nodeName", "") for each in found}


def asked(ray: tools.Tools, model: str) -> str:
    """The text of an answer through the gateways' Service."""
    client = openai.OpenAI(base_url=f"{installed.gateway_url(ray)}/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=8)
    return answer.choices[0].message.content or ""


def incarnations(ray: tools.Tools) -> dict[str, int]:
    """Of the workers that are ready, as `penstock status` tells them."""
    told = installed.status(ray).get("workers", ())
    return {each["id"]: each["incarnation"] for each in told if each["state"] == "ready"}


def test_ray_serve_hosts_a_worker(release: tools.Tools, tmp_path: pathlib.Path) -> None:
    """A RayService of the operator's runs the worker; it is rolled out, scaled and drained under load without a failed request."""
    ray = release
    began_s = time.monotonic()
    ray.apply(SERVED)
    ray.wait("--for=condition=Ready", "md/served", timeout_s=240)
    print(f"a worker hosted by Ray Serve was ready after {time.monotonic() - began_s:.0f} s")
    [service] = ray.get("rayservices")
    assert service["metadata"]["name"] == "served-0"
    assert asked(ray, "served")
    before = service["metadata"]["uid"]
    change = '{"spec": {"engine": {"env": [{"name": "CHANGED", "value": "yes"}]}}}'
    with Load(installed.gateway_url(ray), "served", clients=2) as load:
        ray.kubectl("patch", "md/served", "--type=merge", "-p", change)
        tools.until("another RayService in its place", lambda: before not in uids(ray) and settled(ray, 1), 300)
        ray.kubectl("scale", "md/served", "--replicas=2")
        tools.until("two RayServices", lambda: settled(ray, 2), 240)
        both = incarnations(ray)
        head = installed.pods(ray, "penstock.dev/deployment=served,ray.io/node-type=head")[0]
        drained = head["metadata"]["labels"]["penstock.dev/worker"]
        installed.drain_by_hand(ray, tmp_path, drained, head)
        # Serve starts it again in its place.
        tools.until("it is back", lambda: incarnations(ray).get(drained, 0) > both[drained], 180)
        assert {each: at for each, at in incarnations(ray).items() if each != drained} == {
            each: at for each, at in both.items() if each != drained
        }
        tools.until("two RayServices still", lambda: settled(ray, 2), 120)
        ray.kubectl("scale", "md/served", "--replicas=1")
        tools.until("one RayService", lambda: settled(ray, 1), 120)
    assert load.problems == []
    print(f"{len(load.outcomes)} requests while it was rolled out and scaled")
    assert len(load.outcomes) > 50


def test_a_drained_node_loses_no_request_of_ray_pods(release: tools.Tools) -> None:
    """`kubectl drain` under load, of a node with a worker that Ray Serve hosts: it comes up on the other, and none fails."""
    ray = release
    ray.kubectl("scale", "md/served", "--replicas=2")
    tools.until("two RayServices", lambda: settled(ray, 2), 240)
    node = min(nodes(ray))
    with Load(installed.gateway_url(ray), "served", clients=2) as load:
        try:
            ray.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", timeout_s=300)
            tools.until("two RayServices elsewhere", lambda: settled(ray, 2) and node not in nodes(ray), 240)
        finally:
            ray.kubectl("uncordon", node)
    assert load.problems == []
    print(f"{len(load.outcomes)} requests while {node} was drained")
    ray.kubectl("scale", "md/served", "--replicas=0")
    tools.until("no RayService", lambda: ray.get("rayservices") == [], 90)
    tools.until("no Ray Pods", lambda: ray.get("pods", "-l", "penstock.dev/deployment=served") == [], 120)


def test_ray_serve_hosts_an_engine_that_is_a_program(release: tools.Tools) -> None:
    """The replica starts the engine by its command, registers it, and takes it along when it goes."""
    ray = release
    ray.apply(WEIGHTS, PROGRAM)
    ray.wait("--for=condition=Ready", "md/program", timeout_s=240)
    assert asked(ray, "program")
    ray.kubectl("delete", "md/program")
    tools.until("no Ray Pods", lambda: ray.get("pods", "-l", "penstock.dev/deployment=program") == [], 120)

"""The real KubeRay operator with real Ray Pods."""

from __future__ import annotations

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


def uids(ray: tools.Tools) -> list[str]:
    """Those of all RayServices."""
    return [each["metadata"]["uid"] for each in ray.get("rayservices")]


def settled(ray: tools.Tools, count: int) -> bool:
    """Whether so many workers serve, all of the newest revision, and none more is there."""
    status = ray.get("md", "served")["status"]
    same = status["revision"] == status["updateRevision"] and status["workers"] == f"{count}/{count}"
    return same and len(uids(ray)) == count


def test_ray_serve_hosts_a_worker(ray: tools.Tools, cluster: session.RealCluster) -> None:
    """A RayService of the operator's runs the worker; it is rolled out, scaled and drained under load without a failed request."""
    installed.install(ray, cluster.folder)
    try:
        began_s = time.monotonic()
        ray.apply(SERVED)
        ray.wait("--for=condition=Ready", "md/served", timeout_s=240)
        print(f"a worker hosted by Ray Serve was ready after {time.monotonic() - began_s:.0f} s")
        [service] = ray.get("rayservices")
        assert service["metadata"]["name"] == "served-0"
        client = openai.OpenAI(base_url=f"{installed.gateway_url(ray)}/v1", api_key="none", max_retries=0)
        answer = client.chat.completions.create(
            model="served", messages=[{"role": "user", "content": "Hello"}], max_tokens=8
        )
        assert answer.choices[0].message.content
        before = service["metadata"]["uid"]
        change = '{"spec": {"engine": {"env": [{"name": "CHANGED", "value": "yes"}]}}}'
        with Load(installed.gateway_url(ray), "served", clients=2) as load:
            ray.kubectl("patch", "md/served", "--type=merge", "-p", change)
            tools.until("another RayService in its place", lambda: before not in uids(ray) and settled(ray, 1), 300)
            ray.kubectl("scale", "md/served", "--replicas=2")
            tools.until("two RayServices", lambda: settled(ray, 2), 240)
            ray.kubectl("scale", "md/served", "--replicas=1")
            tools.until("one RayService", lambda: settled(ray, 1), 120)
        assert load.problems == []
        print(f"{len(load.outcomes)} requests while it was rolled out and scaled")
        assert len(load.outcomes) > 50
        ray.kubectl("scale", "md/served", "--replicas=0")
        tools.until("no RayService", lambda: ray.get("rayservices") == [], 90)
        tools.until("no Ray Pods", lambda: ray.get("pods", "-l", "penstock.dev/deployment=served") == [], 120)
    finally:
        ray.kubectl("delete", "md", "--all", "--ignore-not-found")
        ray.helm("uninstall", "penstock", "--wait")

"""The real KubeRay operator with real Ray Pods."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import binaries, tools
from tests.cluster.node import image, kuberay, session
from tests.e2e.cluster import installed

SPACE = "ray"


@pytest.fixture(scope="module")
def ray(cluster: session.RealCluster, kube: tools.Tools) -> Iterator[tools.Tools]:
    """kubectl where KubeRay's operator runs and the project's image with Ray is on the nodes."""
    programs = binaries.find(os.environ)
    try:
        programs.need("kuberay-operator", "kuberay-crds")
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    _, with_ray = image.project_images(cluster.folder / "images", print, with_ray=True)
    cluster.load(with_ray)
    cluster.load(
        image.program_image(image.KUBERAY, programs.path("kuberay-operator"), cluster.folder / "kuberay.tar"),
    )
    with cluster.entered():
        kube.apply_folder(programs.path("kuberay-crds"))
        operator = kube.within(kuberay.NAMESPACE)
        operator.apply(*kuberay.manifests())
        operator.wait("--for=condition=Available", "deployment/kuberay-operator")
        kube.kubectl("create", "namespace", SPACE)
        kube.kubectl("label", "namespace", SPACE, "pod-security.kubernetes.io/enforce=baseline")
        yield kube.within(SPACE)
        kube.kubectl("delete", "namespace", SPACE)
        operator.kubectl("delete", "deployment/kuberay-operator")


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

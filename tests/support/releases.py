"""The chart on a control plane with played nodes: what a release needs there, and how it is installed."""

from __future__ import annotations

from tests.cluster import fakes, tools
from tests.support import charts

CLASS = "played"


def prepare(kube: tools.Tools, namespace: str, volumes: int = 1) -> tools.Tools:
    """A namespace that enforces the restricted standard, nodes, and volumes for Redis; kubectl and helm in it."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}},
        *(fakes.node(f"{namespace}-{number}") for number in range(2)),
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": CLASS},
            "provisioner": "kubernetes.io/no-provisioner",
        },
        *(_volume(f"{namespace}-{number}") for number in range(volumes)),
    )
    return kube.within(namespace)


def _volume(name: str) -> tools.Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "2Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": CLASS,
            "hostPath": {"path": "/played"},
        },
    }


def install(kube: tools.Tools, release: str, *more: str, verb: str = "install", chart: str = str(charts.CHART)) -> str:
    """`helm install --wait` or `helm upgrade --wait`."""
    command = [verb, release, chart, "--wait", "--timeout", "120s", "--set", f"redis.bundled.storage.className={CLASS}"]
    return kube.helm(*command, *more)

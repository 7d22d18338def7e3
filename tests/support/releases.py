"""The chart on a control plane with played nodes: what a release needs there, and how it is installed."""

from __future__ import annotations

import pathlib
import shutil

import yaml

from tests.cluster import fakes, tools
from tests.support import charts

CLASS = "played"
# The chart as it was first (28 November 2026), packed by `helm package`: nothing of it is made from today's.
FIRST = pathlib.Path(__file__).parents[1] / "data" / "charts" / "penstock-20261128.tgz"


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


def older(tmp_path: pathlib.Path) -> pathlib.Path:
    """The chart as a version before this one: its number, one definition and one object less."""
    chart = tmp_path / "penstock"
    shutil.copytree(charts.CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "0.0.9", "appVersion": "0.0.9"}))
    (chart / "templates" / "networkpolicies.yaml").unlink()
    path = chart / "crds" / "modeldeployments.penstock.dev.yaml"
    definition = yaml.safe_load(path.read_text())
    properties = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del properties["placement"]
    path.write_text(yaml.safe_dump(definition))
    return chart

"""Gateways by load on real nodes: a metrics-server reads the kubelets, Kubernetes' autoscaler adds gateways."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster import tools
from tests.cluster.node import image, session
from tests.e2e.cluster import installed
from tests.support import examples, programs
from tests.support.load import Load

SPACE = "by-load"
METRICS = "v1beta1.metrics.k8s.io"
LEAST, MOST = 1, 3
VALUES = ",".join(
    f"gateway.autoscaling.{each}" for each in ("enabled=true", f"minReplicas={LEAST}", f"maxReplicas={MOST}")
)


@pytest.fixture
def metrics_server(cluster: session.RealCluster, kube: tools.Tools) -> Iterator[None]:
    """metrics-server as its own manifests have it. Skipped where it cannot be had."""
    found = programs.needed("metrics-server", "metrics-server-manifests")
    program = image.program_image(image.METRICS_SERVER, found.path("metrics-server"), cluster.folder / "metrics.tar")
    cluster.load(program)
    system = kube.within("kube-system")
    system.apply(*map(changed, manifests(found.path("metrics-server-manifests"))))
    system.wait("--for=condition=Available", "deployment/metrics-server")
    kube.wait("--for=condition=Available", f"apiservice/{METRICS}")
    yield
    # While an API service is there and does not answer, namespaces are not deleted.
    kube.kubectl("delete", "apiservice", METRICS)
    system.kubectl("delete", "deployment", "metrics-server")


def manifests(folder: pathlib.Path) -> list[dict[str, Any]]:
    """All objects of its manifests, with the label that kustomize would give them."""
    found = [each for path in sorted(folder.iterdir()) for each in yaml.safe_load_all(path.read_text()) if each]
    labels = {"k8s-app": "metrics-server"}
    for each in found:
        if each["kind"] == "Deployment":
            each["spec"]["selector"] = {"matchLabels": labels}
            each["spec"]["template"]["metadata"] = {"labels": labels}
        if each["kind"] == "Service":
            each["spec"]["selector"] = labels
    return found


def changed(found: dict[str, Any]) -> dict[str, Any]:
    """The image that was brought to the nodes, and figures as often as it can."""
    if found["kind"] == "Deployment":
        (container,) = found["spec"]["template"]["spec"]["containers"]
        container |= {"image": image.METRICS_SERVER, "imagePullPolicy": "Never"}
        kept = [each for each in container["args"] if not each.startswith("--metric-resolution=")]
        container["args"] = [*kept, "--metric-resolution=10s", "--kubelet-request-timeout=5s"]
        container["resources"]["requests"]["cpu"] = "20m"
    return found


@pytest.fixture
def release(cluster: session.RealCluster, kube: tools.Tools, metrics_server: None) -> Iterator[tools.Tools]:
    """The chart with its autoscaler; kubectl in its namespace."""
    space = kube.within(SPACE)
    kube.kubectl("create", "namespace", SPACE)
    try:
        installed.install(space, cluster.folder, "--set", VALUES)
        yield space
    finally:
        space.run("kubectl", "delete", "md", "--all", "--timeout=120s", timeout_s=150)
        space.run("helm", "uninstall", "penstock", "--wait")
        kube.kubectl("delete", "namespace", SPACE, "--wait=false")


def gateways(space: tools.Tools) -> int:
    """Those that are ready."""
    return sum(map(installed.ready, installed.pods(space, "app.kubernetes.io/component=gateway")))


def autoscaler(space: tools.Tools) -> dict[str, Any]:
    """Conditions of the HorizontalPodAutoscaler, by type."""
    found = space.get("hpa", "penstock-gateway")
    return {each["type"]: each for each in found.get("status", {}).get("conditions", ())}


def test_gateways_come_with_the_load(release: tools.Tools, cluster: session.RealCluster) -> None:
    """As few as the values say while nobody asks; as many as they allow under load, none of whose requests is lost."""
    release.apply(examples.example())
    release.wait("--for=condition=Ready", "md/tiny")
    tools.until(
        "the autoscaler has figures",
        lambda: autoscaler(release).get("ScalingActive", {}).get("status") == "True",
        120,
    )
    assert gateways(release) == LEAST
    with Load(installed.gateway_url(release), "tiny", clients=16) as load:
        tools.until("gateways have come", lambda: gateways(release) == MOST, 180)
        seen = len(load.outcomes)
        tools.until("requests go on", lambda: len(load.outcomes) > seen + 200)
    assert load.problems == []
    assert doctor(cluster.kubeconfig)["metrics"] == "the resource metrics API answers"


def doctor(kubeconfig: pathlib.Path) -> dict[str, str]:
    """What `penstock doctor` says of the release, by check."""
    command = [sys.executable, "-m", "controller.cli.main", "doctor", "-n", SPACE, "--json", "--kubeconfig"]
    asked = subprocess.run([*command, str(kubeconfig)], capture_output=True, text=True, check=False)
    assert asked.stdout, asked.stderr
    return {each["check"]: each["message"] for each in json.loads(asked.stdout)["findings"]}

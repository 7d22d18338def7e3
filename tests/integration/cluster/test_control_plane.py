"""The control plane with all that belongs to it: controllers, scheduler, played nodes, and others' custom resources."""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Iterator

import pytest

from tests.cluster import binaries, control_plane, fakes, tools

pytestmark = pytest.mark.slow
LABELS = {"app": "played"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control_plane.ControlPlane]:
    """One with everything. Skipped where only etcd and the API server are there."""
    extras = control_plane.Extras(controllers=True, fake_nodes=True)
    try:
        made = control_plane.ControlPlane(binaries.find(os.environ), tmp_path_factory.mktemp("plane"), extras)
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def kube(plane: control_plane.ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> tools.Tools:
    """kubectl and helm on it."""
    return tools.Tools(binaries.find(os.environ), plane.kubeconfig, tmp_path_factory.mktemp("home"))


def test_played_nodes_run_pods(kube: tools.Tools) -> None:
    """A Deployment's Pods are scheduled to played nodes with accelerators, and are ready, whatever their image."""
    kube.apply(*(fakes.node(f"played-{number}", gpus=8) for number in range(2)))
    container = {"name": "c", "image": "nowhere/none:1", "resources": {"limits": {"nvidia.com/gpu": "4"}}}
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [container]}}
    kube.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "played"},
            "spec": {"replicas": 4, "selector": {"matchLabels": LABELS}, "template": template},
        }
    )
    kube.wait("--for=condition=Available", "deployment/played")
    pods = kube.get("pods", "-l", "app=played")
    assert sorted(each["spec"]["nodeName"] for each in pods) == ["played-0"] * 2 + ["played-1"] * 2
    kube.kubectl("scale", "deployment/played", "--replicas=5")
    tools.until("a fifth Pod has no place", lambda: [each for each in pods_of(kube) if unschedulable(each)])


def pods_of(kube: tools.Tools) -> list[tools.Object]:
    """The Deployment's Pods."""
    found: list[tools.Object] = kube.get("pods", "-l", "app=played")
    return found


def unschedulable(pod: tools.Object) -> bool:
    """Whether the scheduler says that no node has room."""
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "PodScheduled" and each.get("reason") == "Unschedulable" for each in conditions)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ("kuberay-crds", "rayclusters.ray.io"),
        ("gateway-api", "httproutes.gateway.networking.k8s.io"),
        ("inference-extension", "inferencepools.inference.networking.k8s.io"),
    ],
)
def test_custom_resources_of_others_are_established(kube: tools.Tools, files: str, kind: str) -> None:
    """KubeRay's, Gateway API's and Inference Extension's definitions are accepted as their modules have them."""
    try:
        kube.apply_folder(binaries.find(os.environ).path(files))
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    kube.wait("--for=condition=Established", f"crd/{kind}")


def test_the_server_comes_back_with_what_it_had(plane: control_plane.ControlPlane, kube: tools.Tools) -> None:
    """After a restart of the API server, and while etcd hangs, what was there is there afterwards."""
    before = len(pods_of(kube))
    plane.stop_one("kube-apiserver")
    assert kube.run("kubectl", "get", "pods").returncode != 0
    plane.start_one("kube-apiserver")
    plane.signal("etcd", signal.SIGSTOP)
    stalled = kube.run("kubectl", "get", "configmap", "none", "--request-timeout=1s")
    plane.signal("etcd", signal.SIGCONT)
    assert stalled.returncode != 0
    tools.until("served again", lambda: len(pods_of(kube)) == before)


def test_helm_installs_and_removes_a_chart(kube: tools.Tools, tmp_path: pathlib.Path) -> None:
    """Helm works on it: install, history, uninstall."""
    kube.helm("create", str(tmp_path / "demo"))
    kube.helm("install", "demo", str(tmp_path / "demo"), "--wait", "--timeout=60s")
    assert "deployed" in kube.helm("history", "demo")
    kube.helm("uninstall", "demo", "--wait")
    assert kube.get("deployment", "-l", "app.kubernetes.io/instance=demo") == []


def test_etcd_and_api_server_are_ready_in_five_seconds(tmp_path: pathlib.Path) -> None:
    """What ordinary tests need, from the cache: the best of three starts, since others use the machine too."""
    took_s = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            made = control_plane.ControlPlane(binaries.find(os.environ), folder)
        except binaries.Unavailable as exc:
            pytest.skip(str(exc))
        try:
            made.start()
            took_s.append(made.times_s["ready"])
        finally:
            made.stop()
    assert min(took_s) < 5.0, took_s

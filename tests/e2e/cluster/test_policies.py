"""The chart's NetworkPolicies, enforced: what a fleet needs passes, what others try does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import openai
import pytest

from tests.cluster import binaries, tools
from tests.cluster.node import enforcer, image, session
from tests.e2e.cluster import installed
from tests.support import examples

SPACE, ELSEWHERE = "guarded", "elsewhere"
_TRY = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()
    print("open")
except OSError as exc:
    print("closed", exc)
"""


class Place(NamedTuple):
    """A port of a Pod or Service."""

    address: str
    port: int


@pytest.fixture(scope="module")
def programs() -> binaries.Binaries:
    """With the controller that enforces. Skipped where it cannot be had."""
    found = binaries.find(os.environ)
    try:
        found.need("netpol")
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    return found


@pytest.fixture(scope="module")
def guarded(cluster: session.RealCluster, kube: tools.Tools, programs: binaries.Binaries) -> Iterator[tools.Tools]:
    """kubectl in the namespace of a release with workers, and strangers in it and in another namespace."""
    here = kube.within(SPACE)
    with cluster.entered():
        installed.install(here, cluster.folder)
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ELSEWHERE}})
        for space in (SPACE, ELSEWHERE):
            kube.within(space).apply(stranger())
        here.apply(examples.example())
        here.wait("--for=condition=Ready", "md/tiny")
        for space in (SPACE, ELSEWHERE):
            kube.within(space).wait("--for=condition=Ready", "pod/stranger")
        yield here
        here.kubectl("delete", "md", "--all", "--timeout=120s", timeout_s=150)
        here.helm("uninstall", "penstock", "--wait")
        kube.kubectl("delete", "namespace", ELSEWHERE, "--wait=false")


def stranger() -> dict[str, Any]:
    """A Pod that nothing is known of."""
    container = {
        "name": "main",
        "image": image.PENSTOCK,
        "imagePullPolicy": "Never",
        "command": ["python", "-c", "import time; time.sleep(3600)"],
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger"}, "spec": spec}


def pod_of(kube: tools.Tools, component: str) -> tools.Object:
    """One ready Pod of a component."""
    found = installed.pods(kube, f"app.kubernetes.io/component={component}")
    return next(each for each in found if installed.ready(each))


def worker_of(kube: tools.Tools) -> tools.Object:
    """One ready worker."""
    return next(each for each in installed.pods(kube, "penstock.dev/deployment=tiny") if installed.ready(each))


def reaches(kube: tools.Tools, pod: str, place: Place) -> bool:
    """Whether a Pod can connect there."""
    said = kube.kubectl("exec", pod, "--", "python", "-c", _TRY, place.address, str(place.port))
    assert said.startswith(("open", "closed")), said
    return said.startswith("open")


def places(kube: tools.Tools) -> dict[str, Place]:
    """Every port that a release listens on, by name."""
    addresses = {name: pod_of(kube, name)["status"]["podIP"] for name in ("gateway", "controller", "operator", "redis")}
    return {
        "clients": Place(addresses["gateway"], 8080),
        "admin": Place(addresses["gateway"], 8081),
        "grpc": Place(addresses["controller"], 7070),
        "controller metrics": Place(addresses["controller"], 9090),
        "operator metrics": Place(addresses["operator"], _metrics_port(pod_of(kube, "operator"))),
        "redis": Place(addresses["redis"], 6379),
        "worker": Place(worker_of(kube)["status"]["podIP"], 8000),
    }


def _metrics_port(pod: tools.Object) -> int:
    (container,) = pod["spec"]["containers"]
    return int(next(each["containerPort"] for each in container["ports"] if each["name"] == "metrics"))


def open_from(kube: tools.Tools, pod: str, tried: dict[str, Place]) -> set[str]:
    """Names of the places that a Pod reaches."""
    return {name for name, place in tried.items() if reaches(kube, pod, place)}


def answer(kube: tools.Tools) -> None:
    """An OpenAI client is answered through the gateways' Service."""
    client = openai.OpenAI(base_url=f"{installed.gateway_url(kube)}/v1", api_key="none", max_retries=0)
    made = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=4)
    assert made.usage is not None


def test_who_reaches_what(guarded: tools.Tools, cluster: session.RealCluster, programs: binaries.Binaries) -> None:
    """Strangers reach all without enforcement; with it the clients' port, in the namespace gRPC. The release reaches its own."""
    elsewhere = guarded.within(ELSEWHERE)
    tried = places(guarded)
    assert open_from(elsewhere, "stranger", tried) == set(tried)
    with enforcer.enforcing(cluster, programs):
        assert open_from(elsewhere, "stranger", tried) == {"clients"}
        assert open_from(guarded, "stranger", tried) == {"clients", "grpc"}
        for component, wanted in {
            "gateway": {"redis", "worker"},
            "controller": {"redis", "worker", "admin"},
            "operator": {"redis", "worker"},
        }.items():
            name = pod_of(guarded, component)["metadata"]["name"]
            reached = open_from(guarded, name, {each: tried[each] for each in wanted})
            assert reached == wanted, component
        assert reaches(guarded, worker_of(guarded)["metadata"]["name"], tried["redis"])


def test_a_fleet_lives_under_enforcement(
    guarded: tools.Tools, cluster: session.RealCluster, programs: binaries.Binaries
) -> None:
    """Requests, leases, scaling and a new worker: everything that a release does passes."""
    with enforcer.enforcing(cluster, programs):
        answer(guarded)
        before = {each["metadata"]["name"] for each in installed.pods(guarded, "penstock.dev/deployment=tiny")}
        guarded.kubectl("scale", "md/tiny", f"--replicas={len(before) + 1}")
        tools.until("another worker", lambda: _ready(guarded) - before, 120)
        guarded.kubectl("delete", "pod", sorted(before)[0], "--grace-period=1")
        tools.until("a worker in its place", lambda: len(_ready(guarded)) == len(before) + 1, 120)
        guarded.wait("--for=condition=Ready", "md/tiny")
        answer(guarded)
        # A new gateway and a new controller find Redis, and are probed.
        guarded.kubectl("rollout", "restart", "deployment/penstock-gateway", "deployment/penstock-controller")
        guarded.kubectl("rollout", "status", "deployment/penstock-gateway", "--timeout=120s", timeout_s=150)
        guarded.kubectl("rollout", "status", "deployment/penstock-controller", "--timeout=120s", timeout_s=150)
        answer(guarded)
        assert "Succeeded" in guarded.helm("test", "penstock")


def _ready(kube: tools.Tools) -> set[str]:
    found = installed.pods(kube, "penstock.dev/deployment=tiny")
    return {each["metadata"]["name"] for each in found if installed.ready(each)}

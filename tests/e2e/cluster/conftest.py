"""Two real nodes for all tests of this folder, with the project's image on them."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from tests.cluster import binaries, tools
from tests.cluster.node import image, kuberay, machine, session, storage
from tests.support import programs

_TIMES = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder needs a machine that allows real nodes, and comes last: these run until the session's end."""
    ours = [item for item in items if item.path.is_relative_to(os.path.dirname(__file__))]
    for item in ours:
        item.add_marker(pytest.mark.cluster)
        item.add_marker(pytest.mark.timeout(600))
    mine = set(ours)
    items[:] = [item for item in items if item not in mine] + ours


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[session.RealCluster]:
    """Two nodes. Skipped, with the reason, where the machine does not allow them."""
    said: list[str] = []
    pytestconfig.stash[_TIMES] = said
    reason = machine.why_not()
    if reason:
        pytest.skip(reason)
    found = programs.needed("kubelet", "kube-proxy", "coredns", "pause", "kubectl", "helm")
    made = session.RealCluster(nodes=2)
    try:
        made.start(found, image.project_images(made.folder / "images", said.append))
        said += [f"{name} after {seconds:.1f} s" for name, seconds in made.times_s.items()]
        yield made
    finally:
        made.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says how long the nodes took."""
    if _TIMES in config.stash:
        times: list[str] = config.stash[_TIMES]
        terminalreporter.write_line(f"real nodes: {'; '.join(times) or 'none'}")


@pytest.fixture(scope="session")
def kube(cluster: session.RealCluster) -> tools.Tools:
    """kubectl and helm, on a cluster that has volumes for claims."""
    made = tools.Tools(binaries.find(os.environ), cluster.kubeconfig, cluster.folder)
    with cluster.entered():
        made.apply(*storage.volumes(cluster.folder, 8))
    return made


@pytest.fixture(scope="session")
def kuberay_operator(cluster: session.RealCluster, kube: tools.Tools) -> None:
    """KubeRay's operator, and the project's image with Ray on the nodes. Skipped where it cannot be had."""
    found = programs.needed("kuberay-operator", "kuberay-crds")
    _, with_ray = image.project_images(cluster.folder / "images", print, with_ray=True)
    cluster.load(with_ray)
    program = found.path("kuberay-operator")
    cluster.load(image.program_image(image.KUBERAY, program, cluster.folder / "kuberay.tar"))
    with cluster.entered():
        kube.apply_folder(found.path("kuberay-crds"))
        operator = kube.within(kuberay.NAMESPACE)
        operator.apply(*kuberay.manifests())
        operator.wait("--for=condition=Available", "deployment/kuberay-operator")


@pytest.fixture(autouse=True)
def inside(cluster: session.RealCluster) -> Iterator[None]:
    """Each test runs in the cluster's network: it reaches Pods and Services, and nothing outside."""
    with cluster.entered():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test says what the cluster looked like."""
    report = yield
    made = getattr(item, "funcargs", {}).get("kube")
    held = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and made is not None and held is not None:
        with held.entered():
            report.sections.append(("cluster", _state(made)))
    return report


def _state(kube: tools.Tools) -> str:
    """Pods, what custom resources say, events, and the end of each log."""
    parts = [
        kube.run("kubectl", "get", "pods", "-A", "-o", "wide").stdout,
        kube.run("kubectl", "get", "md", "-A", "-o", "yaml").stdout[-3000:],
        kube.run("kubectl", "get", "events", "-A", "--sort-by=.lastTimestamp").stdout[-4000:],
    ]
    for pod in kube.get("pods", "-A"):
        name, space = pod["metadata"]["name"], pod["metadata"]["namespace"]
        log = kube.within(space).run("kubectl", "logs", name, "--all-containers", "--tail=40")
        parts.append(f"--- {space}/{name}\n{log.stdout[-8000:]}{log.stderr[-300:]}")
    return "\n".join(parts)

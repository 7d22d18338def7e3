"""From the chart's version before this one to this one and back, on real nodes under load."""

from __future__ import annotations

import base64
import pathlib
from collections.abc import Iterator

import pytest

from tests.cluster import tools
from tests.cluster.node import session
from tests.e2e.cluster import installed
from tests.support import examples, releases
from tests.support.load import Load

SPACE = "upgrade"
COMPONENTS = ("gateway", "controller", "operator", "redis")


@pytest.fixture(scope="module")
def release(
    cluster: session.RealCluster, kube: tools.Tools, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tools.Tools]:
    """The older version, with two workers that serve."""
    here = kube.within(SPACE)
    with cluster.entered():
        older = releases.older(tmp_path_factory.mktemp("older"))
        kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(older / "crds"))
        installed.install(here, cluster.folder, chart=older)
        here.apply(examples.example())
        here.wait("--for=condition=Ready", "md/tiny")
        yield here
        here.kubectl("delete", "md/tiny", "--timeout=120s", timeout_s=150)
        here.helm("uninstall", "penstock", "--wait")
        # Kubernetes looks again only after half of the longest grace of its Pods.
        here.kubectl("delete", "namespace", SPACE, "--wait=false")


def uids(release: tools.Tools, selector: str) -> set[str]:
    """Of Pods."""
    return {each["metadata"]["uid"] for each in installed.pods(release, selector)}


def definition_has_placement(release: tools.Tools) -> bool:
    """Whether the definition is the one of this version."""
    version = release.get("crd", "modeldeployments.penstock.dev")["spec"]["versions"][0]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return "placement" in spec


def password(release: tools.Tools) -> str:
    """Redis'."""
    return base64.b64decode(release.get("secret", "penstock-redis")["data"]["password"]).decode()


def test_an_upgrade_and_a_roll_back_lose_nothing(
    release: tools.Tools, cluster: session.RealCluster, tmp_path: pathlib.Path
) -> None:
    """Every component, Redis too, is replaced under load, twice: each stream is whole, workers stay the same Pods."""
    before = {each: uids(release, f"app.kubernetes.io/component={each}") for each in COMPONENTS}
    workers, secret = uids(release, "penstock.dev/deployment=tiny"), password(release)
    assert len(workers) == 2 and not definition_has_placement(release)
    change = [f"{each}.pods.annotations.turn=new" for each in ("gateway", "controller", "operator", "redis.bundled")]

    with Load(installed.gateway_url(release), "tiny") as load:
        installed.install(release, cluster.folder, "--set", ",".join(change), verb="upgrade")
        upgraded = {each: uids(release, f"app.kubernetes.io/component={each}") for each in COMPONENTS}
        tools.until("requests go on", lambda: len(load.outcomes) > 20)
    assert load.problems == []
    assert all(before[each].isdisjoint(upgraded[each]) for each in COMPONENTS), "a component was not replaced"
    assert definition_has_placement(release), "the Job has brought the definitions to this version"
    assert uids(release, "penstock.dev/deployment=tiny") == workers
    assert password(release) == secret

    with Load(installed.gateway_url(release), "tiny") as load:
        release.helm("rollback", "penstock", "--wait", "--timeout=180s")
        seen = len(load.outcomes)
        tools.until("requests go on", lambda: len(load.outcomes) > seen + 20)
    assert load.problems == []
    assert uids(release, "penstock.dev/deployment=tiny") == workers
    assert password(release) == secret
    release.kubectl("scale", "md/tiny", "--replicas=3")
    tools.until("the rolled-back operator acts", lambda: len(uids(release, "penstock.dev/deployment=tiny")) == 3, 120)

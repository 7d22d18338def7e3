"""The chart on real nodes: installed, asked, scaled, rolled out under load, drained, removed. The tests are one walk.

Those with the mark `core` are of `make test` as well; the others leave the fleet as they found it, and may be left out.
"""

from __future__ import annotations

import collections
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.cluster import tools
from tests.cluster.node import session
from tests.e2e.cluster import installed
from tests.support import examples
from tests.support.load import Load

WORKERS = "penstock.dev/deployment=tiny"
COMPONENTS = {**installed.COMPONENTS, "node-agent": 2}


@pytest.fixture(scope="module")
def fleet(cluster: session.RealCluster, kube: tools.Tools) -> Iterator[tools.Tools]:
    """kubectl in the namespace of a release."""
    space = kube.within(installed.SPACE)
    with cluster.entered():
        installed.install(space, cluster.folder, "--set", "nodeAgent.enabled=true")
        # From here on whatever is not as the standard has it is refused: roll-outs, upgrades, workers.
        space.kubectl("label", "namespace", installed.SPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield space


def workers(fleet: tools.Tools) -> list[tools.Object]:
    """The example's worker Pods that are ready."""
    return [each for each in installed.pods(fleet, WORKERS) if installed.ready(each)]


@pytest.mark.core
def test_every_component_is_a_ready_pod(fleet: tools.Tools) -> None:
    """After `helm install --wait` all components run, spread over the nodes, and `helm test` passes."""
    for component, count in COMPONENTS.items():
        found = installed.pods(fleet, f"app.kubernetes.io/component={component}")
        assert [installed.ready(each) for each in found] == [True] * count, component
        assert len({each["spec"]["nodeName"] for each in found}) == count, component
    assert "Succeeded" in fleet.helm("test", "penstock")


# User, effective capabilities, whether the folder of the node is there, and whether it can be written.
_WITHIN = """
import os, re
root = "/host/sys/devices/virtual"
flags = os.statvfs(root).f_flag
caps = re.search("CapEff:\\s+([0-9a-f]+)", open("/proc/self/status").read())[1]
print(os.getuid(), int(caps, 16), "net" in os.listdir(root), "read-only" if flags & os.ST_RDONLY else "writable")
"""


@pytest.mark.core
def test_agents_of_nodes_tell_what_they_find(fleet: tools.Tools) -> None:
    """One on each node, as user 0 without a capability; what the node does not show is said, and no zero."""
    shown = pathlib.Path("/sys/devices/virtual/powercap/intel-rapl").exists()
    for each in installed.pods(fleet, "app.kubernetes.io/component=node-agent"):
        node = each["spec"]["nodeName"]
        within = fleet.kubectl("exec", each["metadata"]["name"], "--", "python", "-c", _WITHIN)
        assert within.strip() == "0 0 True read-only"
        text = httpx.get(f"http://{each['status']['podIP']}:9092/metrics", trust_env=False).text
        assert f'penstock_node_meter_up{{meter="rapl",node="{node}"}} {float(shown)}' in text
        assert ("penstock_node_power_watts{" in text) == shown

    def told() -> dict[str, tuple[str, ...]]:
        found = installed.status(fleet).get("nodes", [])
        return {one["id"]: tuple(reason.partition(":")[0] for reason in one["degraded"]) for one in found}

    tools.until("both nodes are told", lambda: told() == {"node-1": (), "node-2": ()}, 60)


@pytest.mark.core
@pytest.mark.parametrize("page", examples.PAGES)
def test_what_a_page_applies_answers(fleet: tools.Tools, page: str) -> None:
    """The page's own example becomes ready, and an OpenAI client is answered through the gateways' Service."""
    fleet.apply(examples.example(page))
    fleet.wait("--for=condition=Ready", "md/tiny")
    client = openai.OpenAI(base_url=f"{installed.gateway_url(fleet)}/v1", api_key="none", max_retries=0)
    assert [each.id for each in client.models.list()] == ["tiny"]
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=12
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


@pytest.mark.core
def test_scale_changes_the_number_of_workers(fleet: tools.Tools) -> None:
    """`kubectl scale` up and down under load: workers come and go, no request fails."""
    with Load(installed.gateway_url(fleet), "tiny") as load:
        fleet.kubectl("scale", "md/tiny", "--replicas=3")
        tools.until("three workers", lambda: len(workers(fleet)) == 3, 120)
        fleet.kubectl("scale", "md/tiny", "--replicas=2")
        tools.until("two workers", lambda: len(fleet.get("pods", "-l", WORKERS)) == 2, 120)
    assert load.problems == []
    assert len(load.outcomes) > 10


@pytest.mark.core
def test_a_roll_out_loses_no_request(fleet: tools.Tools) -> None:
    """A change of the engine replaces all workers under load, and the revision that was is kept."""
    before = fleet.get("md", "tiny")["status"]["revision"]
    change = '{"spec": {"engine": {"env": [{"name": "CHANGED", "value": "yes"}]}}}'
    with Load(installed.gateway_url(fleet), "tiny") as load:
        fleet.kubectl("patch", "md/tiny", "--type=merge", "-p", change)
        tools.until("rolled out", lambda: rolled_out(fleet) not in ("", before), 180)
        tools.until("old ones are gone", lambda: len(fleet.get("pods", "-l", WORKERS)) == 2, 120)
    assert load.problems == []
    kept = fleet.get("controllerrevisions", "-l", WORKERS)
    assert {each["metadata"]["labels"]["penstock.dev/revision"] for each in kept} >= {before, rolled_out(fleet)}


def test_a_slower_revision_is_rolled_back(fleet: tools.Tools) -> None:
    """Under load its canary misses the target that the others meet: it is taken back, the rest never sees it, none fails."""
    before = rolled_out(fleet)
    # By turns, or the gateways would hardly use the slow one.
    spec: dict[str, Any] = {
        "engine": {"args": ["--slowdown=30"]},
        "sloClasses": [{"name": "chat", "e2e": "500ms", "quantile": 0.5}],
        "rollout": {"canary": {"percent": 50, "watchFor": "10m"}},
        "routing": {"profile": "round-robin"},
    }
    slow: list[int] = []

    def taken_back() -> bool:
        found = [each["metadata"]["labels"]["penstock.dev/revision"] for each in fleet.get("pods", "-l", WORKERS)]
        slow.append(len(found) - found.count(before))
        return bool(fleet.get("md", "tiny")["status"]["rollout"].get("rejected"))

    with Load(installed.gateway_url(fleet), "tiny") as load:
        patch(fleet, spec)
        tools.until("taken back", taken_back, 240)
        tools.until("two workers of before", lambda: revisions(fleet) == [before, before], 120)
    assert load.problems == []
    assert max(slow) == 1
    [progress] = [each for each in fleet.get("md", "tiny")["status"]["conditions"] if each["type"] == "Progressing"]
    assert progress["reason"] == "RolloutRolledBack" and "latencies are worse" in progress["message"]
    # What a person does then.
    patch(fleet, dict.fromkeys(spec) | {"engine": {"args": None}})
    tools.until("as before", lambda: rolled_out(fleet) == before, 60)


def patch(fleet: tools.Tools, spec: dict[str, Any]) -> None:
    """Fields that are None go."""
    fleet.kubectl("patch", "md/tiny", "--type=merge", "-p", json.dumps({"spec": spec}))


def revisions(fleet: tools.Tools) -> list[str]:
    """Of the workers that are ready."""
    return [each["metadata"]["labels"]["penstock.dev/revision"] for each in workers(fleet)]


def rolled_out(fleet: tools.Tools) -> str:
    """The revision that all workers have; empty while a roll-out is under way."""
    status = fleet.get("md", "tiny")["status"]
    same = status["revision"] == status["updateRevision"] and status["workers"] == "2/2"
    return str(status["revision"]) if same else ""


def test_a_command_over_grpc_drains_a_worker(fleet: tools.Tools, tmp_path: pathlib.Path) -> None:
    """`penstock drain --agent` with the chart's client certificate, under load: its streams end, another worker takes its place."""
    victim = workers(fleet)[0]
    name, address = victim["metadata"]["name"], f"{victim['status']['podIP']}:8002"
    with Load(installed.gateway_url(fleet), "tiny") as load:
        installed.drain_by_hand(fleet, tmp_path, name, victim)
        command = [sys.executable, "-m", "controller.cli.main", "drain", name, "--agent", address, "--tls-ca", "ca.crt"]
        without = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert without.returncode == 2, without.stderr
        tools.until("it is gone", lambda: victim["metadata"]["uid"] not in uids(fleet), 120)
        tools.until("two workers again", lambda: len(uids(fleet)) == 2, 120)
    assert load.problems == []


def test_an_upgrade_and_its_way_back_lose_no_request(fleet: tools.Tools) -> None:
    """`helm upgrade` replaces gateways, controllers and operators under load, `helm rollback` does it again."""
    changed = ",".join(f"{name}.pods.annotations.changed=yes" for name in ("gateway", "controller", "operator"))
    args = ["--wait", "--timeout=180s"]
    with Load(installed.gateway_url(fleet), "tiny") as load:
        fleet.helm("upgrade", "penstock", str(installed.CHART), "--reuse-values", "--set", changed, *args)
        fleet.helm("rollback", "penstock", "1", *args)
        tools.until("old ones are gone", lambda: components(fleet) == COMPONENTS, 120)
    assert load.problems == []
    assert len(load.outcomes) > 20


def components(fleet: tools.Tools) -> dict[str, int]:
    """How many Pods of each component there are, those on their way out included."""
    label = "app.kubernetes.io/component"
    found = fleet.get(
        "pods", "-l", f"{label},app.kubernetes.io/instance=penstock", "--field-selector=status.phase=Running"
    )
    return dict(collections.Counter(each["metadata"]["labels"][label] for each in found))


@pytest.mark.core
def test_a_drained_node_loses_no_request(fleet: tools.Tools) -> None:
    """`kubectl drain` under load: everything that was on the node comes up on the other, streams end as they should."""
    with Load(installed.gateway_url(fleet), "tiny") as load:
        fleet.kubectl("drain", "node-2", "--ignore-daemonsets", "--delete-emptydir-data", "--force", timeout_s=240)
        try:
            tools.until("two workers", lambda: len(workers(fleet)) == 2, 120)
            assert {each["spec"]["nodeName"] for each in workers(fleet)} == {"node-1"}
        finally:
            fleet.kubectl("uncordon", "node-2")
    assert load.problems == []


@pytest.mark.core
def test_a_killed_pod_is_replaced(fleet: tools.Tools) -> None:
    """A worker that is deleted at once comes back under load, and the fleet answers all the while."""
    victim = workers(fleet)[0]["metadata"]
    with Load(installed.gateway_url(fleet), "tiny", clients=2) as load:
        fleet.kubectl("delete", "pod", victim["name"], "--grace-period=0", "--force")
        tools.until("two workers again", lambda: len(set(uids(fleet)) - {victim["uid"]}) == 2, 120)
        seen = len(load.outcomes)
        tools.until("requests go on", lambda: len(load.outcomes) > seen + 4)
    assert not load.outcomes[-1].problem


def uids(fleet: tools.Tools) -> list[str]:
    """Of the ready workers."""
    return [each["metadata"]["uid"] for each in workers(fleet)]


@pytest.mark.core
def test_deletion_takes_the_workers(fleet: tools.Tools) -> None:
    """A deleted deployment's workers go, and the gateways say that the model is not served."""
    fleet.kubectl("delete", "md/tiny", "--timeout=120s", timeout_s=150)
    tools.until("no workers", lambda: fleet.get("pods", "-l", WORKERS) == [], 120)
    client = openai.OpenAI(base_url=f"{installed.gateway_url(fleet)}/v1", api_key="none", max_retries=0)
    tools.until("not listed", lambda: [each.id for each in client.models.list()] == [])


@pytest.mark.core
def test_uninstall_leaves_what_is_the_users(fleet: tools.Tools) -> None:
    """After `helm uninstall` the definitions, Redis' volume and its password are there, and nothing else runs."""
    fleet.helm("uninstall", "penstock", "--wait")
    tools.until("no Pods", lambda: fleet.get("pods", "--field-selector=status.phase=Running") == [], 120)
    assert fleet.get("crd", "modeldeployments.penstock.dev")
    assert [each["metadata"]["name"] for each in fleet.get("pvc")] == ["data-penstock-redis-0"]
    assert fleet.get("secret", "penstock-redis")

"""Operator processes on a real API server and a real Redis."""

from __future__ import annotations

import pathlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from operators import settings as operator_settings
from operators import sight
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis
from tests.cluster import api
from tests.support.operator_process import OperatorProcess, until

pytestmark = pytest.mark.slow
LEASE = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/penstock-operator"


@pytest_asyncio.fixture
async def redis_url(tmp_path: pathlib.Path) -> AsyncIterator[str]:
    """A Redis of the test's own."""
    server = embedded_redis.EmbeddedRedis(tmp_path, clocks.SystemClock())
    await server.start()
    yield server.url
    await server.stop()


@pytest.fixture
def pair(
    tmp_path: pathlib.Path, access: api.Access, server: api.Api, namespace: str, redis_url: str
) -> Iterator[list[OperatorProcess]]:
    """Two operators of one namespace, with their Lease in it."""
    settings = {"NAMESPACES": namespace, "LEASE__NAMESPACE": namespace}
    both = [OperatorProcess(tmp_path, access, redis_url, f"operator-{n}", **settings) for n in range(2)]
    for each in both:
        each.start()
    yield both
    for each in both:
        each.kill()


def deploy(server: api.Api, namespace: str, name: str, replicas: int = 2) -> None:
    """A deployment of simulated workers."""
    document = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"name": "tiny"}, "engine": {"kind": "sim"}, "replicas": replicas},
    }
    made = server.create(document, namespace)
    assert made.is_success, made.text


def names(server: api.Api, namespace: str) -> list[str]:
    """Names of the Pods."""
    return sorted(each["metadata"]["name"] for each in server.get(sight.POD.path(namespace)).json()["items"])


def leader(pair: list[OperatorProcess]) -> OperatorProcess | None:
    """The one that leads; never two."""
    found = [each for each in pair if each.leads]
    assert len(found) < 2, [each.log()[-2000:] for each in pair]
    return found[0] if found else None


def test_a_killed_leader_is_replaced_within_15_s(pair: list[OperatorProcess], server: api.Api, namespace: str) -> None:
    """One of two acts; when it is killed the other goes on within the promised time, and when it stops, at once."""
    until(lambda: leader(pair), what="a leader")
    deploy(server, namespace, "a")
    until(lambda: names(server, namespace) == ["a-0", "a-1"], what="Pods")
    until(lambda: all(each.ask("/readyz")[0] == 200 for each in pair), what="both know the cluster")
    assert all(each.ask("/healthz")[0] == 200 for each in pair)
    first = leader(pair)
    assert first is not None
    (second,) = [each for each in pair if each is not first]
    assert second.total("penstock_operator_commands_total") == 0
    first.kill()
    deploy(server, namespace, "b", 1)
    took_s = until(lambda: "b-0" in names(server, namespace), 15.0, "the other operator's Pod")
    print(f"the work of a killed leader went on after {took_s:.1f} s")
    first.start()
    until(lambda: first.ask("/readyz")[0] == 200)
    assert not first.leads
    assert second.stop() == 0
    holder = server.get(LEASE.format(namespace)).json()["spec"]["holderIdentity"]
    assert holder == "" or holder.startswith(first.name)
    deploy(server, namespace, "c", 1)
    until(lambda: "c-0" in names(server, namespace), 6.0, "the Pod after a clean hand-over")
    assert names(server, namespace) == ["a-0", "a-1", "b-0", "c-0"]


def test_steady_state_asks_next_to_nothing(pair: list[OperatorProcess], server: api.Api, namespace: str) -> None:
    """With nothing to do, the leader renews its lease and that is all, also over a pass over everything."""
    for number in range(20):
        deploy(server, namespace, f"d{number}", 1)
    until(lambda: len(names(server, namespace)) == 20, what="Pods")
    acting = leader(pair)
    assert acting is not None
    status = [sight.DEPLOYMENT.path(namespace, f"d{number}") for number in range(20)]
    until(lambda: all(server.get(path).json().get("status", {}).get("workers") == "0/1" for path in status))
    until(lambda: acting.metric("penstock_operator_queue_depth") == 0)
    passes = acting.total("penstock_operator_reconciles_total")
    before, began_s = _calls(acting), time.monotonic()
    # Deployments that wait are looked at again every 15 s.
    until(lambda: acting.total("penstock_operator_reconciles_total") >= passes + 20, 40.0, "another look")
    after, renewals = _calls(acting), (time.monotonic() - began_s) / operator_settings.LeaseSettings().renew_s + 2
    asked = {sample: count - before.get(sample, 0) for sample, count in after.items() if count != before.get(sample)}
    # A renewal reads the Lease and writes it.
    gets, updates = asked.pop(_SAMPLE.format("get"), 0), asked.pop(_SAMPLE.format("update"), 0)
    assert asked == {}
    assert 0 < updates <= renewals and abs(gets - updates) <= 1


_SAMPLE = 'penstock_operator_api_calls_total{{code="200",verb="{}"}}'


def _calls(operator: OperatorProcess) -> dict[str, float]:
    """All calls of the API server, of whatever verb and answer, by sample."""
    lines = [line.rpartition(" ") for line in operator.ask("/metrics")[1].splitlines()]
    found = {name: float(value) for name, _, value in lines if name.startswith(_SAMPLE.partition("{")[0])}
    assert found
    return found


def test_a_profile_tells_what_nodes_offer(pair: list[OperatorProcess], server: api.Api, namespace: str) -> None:
    """Its status follows nodes that come, get their devices, are cordoned and go; columns and `kubectl wait` read it."""
    own = {"gpu": namespace}
    profile = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "AcceleratorProfile",
        "metadata": {"name": namespace[-40:]},
        "spec": {"resourceName": "nvidia.com/gpu", "memory": "80Gi", "nodeSelector": own},
    }
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace, "labels": own}}
    assert server.create(profile, "").is_success
    path, of_node = f"/apis/penstock.dev/v1alpha1/acceleratorprofiles/{namespace[-40:]}", f"/api/v1/nodes/{namespace}"

    def told() -> tuple[str, int, int]:
        said = server.get(path).json().get("status", {})
        reason = next((each["reason"] for each in said.get("conditions", ())), "")
        return reason, said.get("nodes", 0), said.get("allocatable", 0)

    try:
        until(lambda: told() == ("NoNodes", 0, 0), what="a profile without nodes")
        assert server.create(node, "").is_success
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        assert server.merge(f"{of_node}/status", {"status": ready}).is_success
        until(lambda: told() == ("NoDevices", 0, 0), what="a node without its device plugin")
        assert server.merge(f"{of_node}/status", {"status": {"allocatable": {"nvidia.com/gpu": "8"}}}).is_success
        until(lambda: told() == ("Available", 1, 8), what="eight accelerators")
        assert server.merge(of_node, {"spec": {"unschedulable": True}}).is_success
        until(lambda: told() == ("NoNodes", 0, 0), what="a cordoned node")
        assert server.get(path).json()["status"]["observedGeneration"] == 1
    finally:
        server.delete(node, "")
        server.delete(profile, "")

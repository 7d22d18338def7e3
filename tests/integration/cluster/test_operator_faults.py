"""An operator process while the API server is away, slow, without history, or hangs."""

from __future__ import annotations

import asyncio

import pytest

from operators import sight
from penstock.api import wire
from tests.cluster import faults
from tests.cluster.faults import Fault
from tests.support.bench import Bench

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


async def test_away_and_back(bench: Bench) -> None:
    """With the API server away the fleet's registry stays as it is; back, the operator goes on where it was."""
    bench.deploy("a", 2)
    await bench.until(lambda: bench.pods() == ["a-0", "a-1"])
    await bench.serve("a-0", "a-1")
    await asyncio.to_thread(bench.plane.stop_one, "kube-apiserver")
    await bench.until(lambda: not bench.operator.leads, 20.0, "it cannot renew, so it does not lead")
    await bench.until(lambda: bench.operator.metric('penstock_operator_degraded{mode="api_server"}') == 1)
    assert await bench.states() == {"a-0": "ready", "a-1": "ready"}
    await bench.start_server()
    bench.scale("a", 3)
    took_s = await bench.until(lambda: bench.pods() == ["a-0", "a-1", "a-2"], 60.0)
    print(f"went on {took_s:.1f} s after the API server was back")
    assert await bench.states() == {"a-0": "ready", "a-1": "ready"}
    assert bench.operator.metric('penstock_operator_degraded{mode="registry"}') == 0


async def test_watches_cut_and_history_gone(bench: Bench) -> None:
    """Watches that end in the middle, and versions that the server does not keep any more, lose no change."""
    gone = False

    def rule(request: faults.Request) -> Fault:
        return Fault(status=410) if gone and request.watches else Fault()

    bench.proxy.rule = rule
    bench.deploy("a", 1)
    await bench.until(lambda: bench.pods() == ["a-0"])
    for replicas in (2, 3, 4):
        bench.proxy.cut()
        bench.scale("a", replicas)
        await bench.until(lambda wanted=replicas: len(bench.pods()) == wanted)
    gone = True
    bench.proxy.cut()
    bench.scale("a", 5)
    await bench.until(lambda: len(bench.pods()) == 5, 30.0, "lists alone")
    gone = False
    bench.scale("a", 6)
    await bench.until(lambda: len(bench.pods()) == 6)


async def test_the_registry_is_followed(bench: Bench) -> None:
    """A drained worker's Pod goes as soon as it has left the registry, without a call to the API server in between."""
    bench.deploy("a", 2)
    await bench.until(lambda: bench.pods() == ["a-0", "a-1"])
    await bench.serve("a-0", "a-1")
    path = sight.DEPLOYMENT.path(bench.namespace, "a")
    await bench.until(lambda: bench.server.get(path).json().get("status", {}).get("workers") == "2/2")
    bench.scale("a", 1)
    async with asyncio.timeout(10):
        while (await bench.states()).get("a-1") != "draining":
            await asyncio.sleep(0.05)
    assert bench.pods() == ["a-0", "a-1"]
    [leaving] = [each.record for each in await bench.registry.snapshot() if each.record.id == "a-1"]
    await bench.registry.deregister("a-1", leaving.incarnation)
    took_s = await bench.until(lambda: bench.pods() == ["a-0"], 5.0)
    print(f"the Pod went {took_s:.2f} s after its worker had left")


async def test_what_went_while_no_operator_ran_is_taken_back(bench: Bench) -> None:
    """Nothing of it is left but what gateways were told; what others have told them stays."""
    bench.deploy("a", 1)
    async with asyncio.timeout(10):
        while await bench.told() != {"a"}:
            await asyncio.sleep(0.05)
    await asyncio.to_thread(bench.operator.kill)
    lease = bench.server.get(f"/apis/coordination.k8s.io/v1/namespaces/{bench.namespace}/leases/penstock-operator")
    uid = lease.json()["metadata"]["uid"]
    redis, keys = bench.link.client, wire.Keys(bench.namespace)
    for name, operators in (("gone", uid), ("others", "another-cluster")):
        await redis.hset(keys.deployments, name, await redis.hget(keys.deployments, "a"))
        await redis.sadd(wire.told(operators), f"{bench.namespace}/{name}")
    await redis.sadd(wire.told(uid), "elsewhere/gone")
    bench.operator.start()
    async with asyncio.timeout(30):
        while await bench.told() != {"a", "others"}:
            await asyncio.sleep(0.05)
    assert await redis.smembers(wire.told(uid)) == {f"{bench.namespace}/a".encode(), b"elsewhere/gone"}

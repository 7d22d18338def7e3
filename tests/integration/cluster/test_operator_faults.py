"""An operator process while the API server is away, slow, without history, or hangs."""

from __future__ import annotations

import asyncio
import signal

import pytest

from operators import sight
from penstock.api import types
from tests.cluster import faults
from tests.cluster.faults import Fault
from tests.support.bench import WATCHED, Bench

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
    await asyncio.to_thread(bench.plane.start_one, "kube-apiserver")
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


async def test_slow_calls(bench: Bench) -> None:
    """At a second for each call the Lease is kept, and a change has its effect."""
    bench.proxy.rule = lambda request: Fault() if request.watches else Fault(delay_s=1.0)
    bench.deploy("a", 2)
    await bench.until(lambda: bench.pods() == ["a-0", "a-1"], 60.0)
    await bench.serve("a-0", "a-1")
    bench.scale("a", 1)
    await bench.until(lambda: len(bench.pods()) == 2)
    async with asyncio.timeout(30):
        while "draining" not in (await bench.states()).values():
            await asyncio.sleep(0.1)
    assert bench.operator.leads


@pytest.mark.parametrize("status", [429, 503])
async def test_a_quarter_of_all_calls_is_refused(bench: Bench, status: int) -> None:
    """Refused calls are made again when the server says so: the Lease is kept, and changes have their effect."""
    bench.proxy.rule = faults.some(0.25, Fault(status=status), watches=True)
    bench.proxy.cut()
    bench.deploy("a", 6)
    await bench.until(lambda: bench.pods() == [f"a-{n}" for n in range(6)], 60.0)
    await bench.serve(*(f"a-{n}" for n in range(6)))
    path = sight.DEPLOYMENT.path(WATCHED, "a")
    await bench.until(lambda: bench.server.get(path).json().get("status", {}).get("workers") == "6/6", 60.0)
    bench.scale("a", 2)
    async with asyncio.timeout(60):
        while list((await bench.states()).values()).count("draining") < 4:
            await asyncio.sleep(0.05)
    for each in await bench.registry.snapshot():
        if each.record.state is types.WorkerState.DRAINING:
            await bench.registry.deregister(each.record.id, each.record.incarnation)
    await bench.until(lambda: len(bench.pods()) == 2, 60.0)
    assert sorted(await bench.states()) == bench.pods()
    assert bench.operator.leads and bench.proxy.refused > 20
    assert "not_leading" not in bench.operator.log()


async def test_etcd_hangs(bench: Bench) -> None:
    """A server that takes requests and does not answer them is waited for; nothing is doubled after it."""
    bench.deploy("a", 2)
    await bench.until(lambda: bench.pods() == ["a-0", "a-1"])
    bench.plane.signal("etcd", signal.SIGSTOP)
    try:
        await bench.until(lambda: not bench.operator.leads, 30.0, "no renewal without etcd")
    finally:
        bench.plane.signal("etcd", signal.SIGCONT)
    await bench.until(lambda: bench.operator.leads, 60.0)
    bench.scale("a", 4)
    await bench.until(lambda: bench.pods() == [f"a-{n}" for n in range(4)], 60.0)


async def test_the_registry_is_followed(bench: Bench) -> None:
    """A drained worker's Pod goes as soon as it has left the registry, without a call to the API server in between."""
    bench.deploy("a", 2)
    await bench.until(lambda: bench.pods() == ["a-0", "a-1"])
    await bench.serve("a-0", "a-1")
    path = sight.DEPLOYMENT.path(WATCHED, "a")
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

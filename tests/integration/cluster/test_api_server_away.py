"""Serving without the API server: real gateways, workers that were made of the operator's Pods, and streams all the time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from operators import sight
from penstock.api import wire
from penstock.runtime import processes
from tests.cluster.faults import Fault
from tests.support.bench import Bench
from tests.support.kubelet import Kubelet
from tests.support.load import Load

# How long the API server is away; PENSTOCK_TEST_AWAY_S=3600 is the hour itself.
AWAY_S = float(os.environ.get("PENSTOCK_TEST_AWAY_S", "60"))
pytestmark = [pytest.mark.long, pytest.mark.timeout(AWAY_S + 240)]
# A worker renews every second for as long as it lives: in an hour that is
RENEWALS = 3600
# so a minute is enough for as many. The lease itself has its default length (3 s): its twentieth life ends in that minute.
RENEW_S = min(1.0, AWAY_S / RENEWALS)
NAMES = ["m-0", "m-1", "m-2"]


class Fleet:
    """Two gateways and the workers of deployment `m` around a `Bench`."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.kubelet = Kubelet(
            bench.server, bench.namespace, bench.folder, bench.redis.url, renew_s=RENEW_S, settle_s=0.3
        )
        self._gateways: list[processes.Child] = []

    def gateway(self, name: str) -> processes.Child:
        """A gateway's process; all it is told of is Redis."""
        env = {
            **os.environ,
            "PENSTOCK_GATEWAY_REDIS_URL": self.bench.redis.url,
            "PENSTOCK_GATEWAY_NAMESPACE": self.bench.namespace,
        }
        argv = [sys.executable, "-m", "router.server", "--id", name, "--port", "0", "--admin-port", "0"]
        child = processes.Child(name, argv, env=env, log_path=self.bench.folder / f"{name}.log")
        child.spawn()
        self._gateways.append(child)
        return child

    async def url(self, gateway: processes.Child) -> str:
        """Where it listens."""
        async with asyncio.timeout(30):
            while True:
                for line in gateway.log_tail(20_000).splitlines():
                    if '"gateway_ready"' in line:
                        return f"http://{json.loads(line)['address']}"
                await asyncio.sleep(0.05)

    async def start(self) -> list[str]:
        """Everything serves; the gateways' URLs."""
        self.bench.deploy("m", len(NAMES))
        gateways = [self.gateway(f"gw-{number}") for number in range(2)]
        await self.bench.until(lambda: self.bench.pods() == NAMES)
        for name in NAMES:
            self.kubelet.run(self.pod(name))
        await self.ready()
        return [await self.url(each) for each in gateways]

    def pod(self, name: str) -> dict[str, object]:
        """A Pod as the API server has it."""
        found: dict[str, object] = self.bench.server.get(sight.POD.path(self.bench.namespace, name)).json()
        return found

    def uids(self) -> dict[str, str]:
        """Of the Pods that there are."""
        found = self.bench.server.get(sight.POD.path(self.bench.namespace)).json()["items"]
        return {each["metadata"]["name"]: each["metadata"]["uid"] for each in found}

    async def ready(self) -> None:
        """All workers are registered as ready, and the operator has said so."""
        path = sight.DEPLOYMENT.path(self.bench.namespace, "m")
        try:
            async with asyncio.timeout(60):
                while await self.bench.states() != dict.fromkeys(NAMES, "ready"):
                    await asyncio.sleep(0.05)
            await self.bench.until(
                lambda: self.bench.server.get(path).json().get("status", {}).get("workers") == "3/3", 60.0
            )
        except (AssertionError, TimeoutError) as exc:
            raise AssertionError(f"{exc!r}\n{self.kubelet.log()}\n{self.bench.operator.log()[-2000:]}") from None

    async def renewals(self) -> AsyncIterator[int]:
        """How often leases of workers were written from here on, told with each."""
        redis, key = self.bench.link.client, wire.Keys(self.bench.namespace).worker_leases
        await redis.config_set("notify-keyspace-events", "Kz")
        async with redis.pubsub(ignore_subscribe_messages=True) as told:
            await told.subscribe(f"__keyspace@0__:{key}")
            count = 0
            async for message in told.listen():
                count += message["data"] == b"zadd"
                yield count

    async def stop(self) -> None:
        """All of it."""
        for each in self._gateways:
            await each.stop()
        self.kubelet.stop()


@pytest_asyncio.fixture
async def fleet(bench: Bench) -> AsyncIterator[Fleet]:
    """Nothing runs yet but the bench."""
    found = Fleet(bench)
    yield found
    await found.stop()


@contextlib.contextmanager
def asked(urls: list[str]) -> Iterator[list[Load]]:
    """Two streams at a time through each gateway."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Load(url, "tiny", clients=2)) for url in urls]


async def test_an_hour_without_the_api_server(fleet: Fleet) -> None:
    """No request fails, no lease ends, nothing is drained while nobody can ask it; back, what was done meanwhile is mended.

    The three workers renew their leases as often as in an hour with the default settings (10,800 times), and a minute is
    twenty lives of a lease; the operator's Lease (8 s) and every wait of its watches (15 s at most) end several times over.
    """
    bench = fleet.bench
    urls = await fleet.start()
    before = {each.record.id: each.record.incarnation for each in await bench.registry.snapshot()}
    uids = fleet.uids()
    with asked(urls) as loads:
        cursor = (await bench.registry.snapshot_at()).cursor
        began_s = time.monotonic()
        await asyncio.to_thread(bench.plane.stop_one, "kube-apiserver")
        async with asyncio.timeout(AWAY_S + 120):
            async for renewed in fleet.renewals():
                away_s = time.monotonic() - began_s
                if away_s >= AWAY_S and renewed >= len(NAMES) * RENEWALS:
                    break
        assert not bench.operator.leads, "blind, it does not act"
        changes, _ = await bench.registry.changes(cursor, 0.01)
        assert changes == [], "no worker was drained, lost its lease or had to register again"
        whole = sum(len(each.outcomes) for each in loads)
        print(f"{whole} requests in {away_s:.0f} s without an API server, {renewed} renewals")
        assert [problem for each in loads for problem in each.problems] == []
        # The API server is back before the operator sees it again, and a worker's Pod is deleted by somebody.
        bench.proxy.rule = lambda request: Fault(drop="before")
        await bench.start_server()
        assert fleet.uids() == uids
        bench.server.delete({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m-2"}}, bench.namespace)
        assert await asyncio.to_thread(fleet.kubelet.end, "m-2") == 0
        bench.proxy.rule = lambda request: Fault()
        took_s = await bench.until(lambda: bench.pods() == NAMES, 60.0, "the Pod is replaced")
        fleet.kubelet.run(fleet.pod("m-2"))
        await fleet.ready()
    print(f"the Pod was replaced {took_s:.1f} s after the API server was back")
    assert [problem for each in loads for problem in each.problems] == []
    assert whole > AWAY_S and all(each.outcomes for each in loads)
    after = {each.record.id: each.record.incarnation for each in await bench.registry.snapshot()}
    assert {name for name in NAMES if before[name] != after[name]} == {"m-2"}
    assert {name for name, uid in fleet.uids().items() if uids[name] != uid} == {"m-2"}
    assert fleet.kubelet.alive() == NAMES

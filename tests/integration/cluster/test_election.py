"""Who leads, on a real API server: the Lease is taken, renewed, lost, given up. Time is what the test says it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from operators import election, kube, settings
from penstock.runtime import clock as clocks
from penstock.runtime import errors
from tests.cluster import api, faults
from tests.cluster.faults import Fault
from tests.support.stage import until

LEASE = settings.LeaseSettings(duration_s=8, renew_s=2)


class Bids:
    """Processes that bid for one Lease, each through a proxy of its own."""

    def __init__(self, server: api.Api, access: api.Access, namespace: str) -> None:
        self._server, self._access, self._namespace = server, access, namespace
        self.clock = clocks.ManualClock()
        self.proxies: dict[str, faults.Proxy] = {}
        self._clients: list[kube.KubeClient] = []

    async def of(self, name: str, lease: settings.LeaseSettings = LEASE, **more: Any) -> election.Election:
        """One process' bid."""
        proxy = self.proxies[name] = faults.Proxy(self._access)
        await proxy.start()
        access = proxy.access
        self._clients.append(kube.KubeClient(access.server, access.ssl_context(), access.token, timeout_s=5.0))
        clock = more.pop("clock", self.clock)
        return election.Election(self._clients[-1], clock, lease, self._namespace, name, **more)

    def away(self, name: str, away: bool = True) -> None:
        """The server answers this process nothing."""
        self.proxies[name].rule = lambda request: Fault(drop="before") if away else Fault()

    def transitions(self) -> int:
        """How often the Lease went to another."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases/{LEASE.name}"
        return int(self._server.get(path).json()["spec"]["leaseTransitions"])

    async def close(self) -> None:
        """Ends all connections."""
        for client in self._clients:
            await client.close()
        for proxy in self.proxies.values():
            await proxy.stop()


@pytest_asyncio.fixture
async def bids(server: api.Api, access: api.Access, namespace: str) -> AsyncIterator[Bids]:
    """In a namespace of the test's own."""
    made = Bids(server, access, namespace)
    yield made
    await made.close()


async def test_one_of_two_leads(bids: Bids) -> None:
    """The first takes the Lease; the other sees who has it and does not lead, however often it looks."""
    first, second = await bids.of("a"), await bids.of("b")
    assert await first.tick()
    for _ in range(20):
        assert not await second.tick()
        await bids.clock.advance(2)
        assert await first.tick()
    assert second.holder == "a"
    assert bids.transitions() == 0


async def test_a_silent_leader_stops_before_another_begins(bids: Bids) -> None:
    """Without a renewal the leader stops by itself, and only then another takes over, within the duration."""
    first, second = await bids.of("a"), await bids.of("b")
    assert await first.tick()
    assert not await second.tick()
    for _ in range(60):
        await bids.clock.advance(0.2)
        if await second.tick():
            break
        assert first.leading == (bids.clock.monotonic_s() < 6.4)
    assert second.leading and not first.leading
    assert bids.clock.monotonic_s() <= 8.2
    assert bids.transitions() == 1


async def test_a_leader_that_cannot_renew_stops(bids: Bids) -> None:
    """With the server away, `leading` ends by the clock alone."""
    first = await bids.of("a")
    await first.tick()
    bids.away("a")
    await bids.clock.advance(6.3)
    with pytest.raises(errors.RetryableError):
        await first.tick()
    assert first.leading
    await bids.clock.advance(0.2)
    assert not first.leading


async def test_a_renewal_whose_answer_was_lost_is_our_own(bids: Bids) -> None:
    """The next look finds the Lease with our name, and renews it again."""
    first = await bids.of("a")
    await first.tick()
    bids.proxies["a"].rule = lambda request: Fault(drop="after") if request.writes else Fault()
    with pytest.raises(errors.RetryableError):
        await first.tick()
    bids.away("a", False)
    await bids.clock.advance(7)
    assert not first.leading
    assert await first.tick()
    assert bids.transitions() == 0


async def test_two_at_the_same_version_cannot_both_take_it(bids: Bids) -> None:
    """Both have seen the end of the Lease before either writes; the server takes one of them."""
    await (await bids.of("gone")).tick()
    first, second = await bids.of("a"), await bids.of("b")
    await first.tick()
    await second.tick()
    await bids.clock.advance(9)
    bids.proxies["b"].rule = lambda request: Fault(delay_s=0.5) if request.writes else Fault()
    late = asyncio.create_task(second.tick())
    await until(lambda: bids.proxies["b"].writes)
    assert await first.tick()
    with pytest.raises(kube.ConflictError):
        await late
    assert first.leading and not second.leading
    assert bids.transitions() == 1


async def test_a_clean_stop_gives_the_lease_up(bids: Bids) -> None:
    """Another one leads at its next look."""
    first, second = await bids.of("a"), await bids.of("b")
    await first.tick()
    await second.tick()
    await first.stop()
    assert not first.leading
    assert await second.tick()


async def test_the_end_of_a_lease_is_told(bids: Bids) -> None:
    """Also where it comes between two attempts to renew, which a server that refuses at once leaves plenty of time for."""
    told: list[bool] = []
    lease = settings.LeaseSettings(duration_s=2, renew_s=0.5)
    first = await bids.of("a", lease, clock=clocks.SystemClock(), changed=lambda: told.append(first.leading))
    await first.start()
    await until(lambda: told == [True])
    bids.away("a")
    await until(lambda: told == [True, False])
    bids.away("a", False)
    await until(lambda: told == [True, False, True])
    await first.stop()
    assert told == [True, False, True, False]

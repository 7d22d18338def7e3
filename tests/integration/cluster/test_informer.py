"""How copies follow a collection whose watch does not run, on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from operators import cache, copies, kube, sight
from penstock.runtime import clock as clocks
from tests.cluster import api, faults
from tests.cluster.faults import Fault
from tests.support.clocks import HastyClock
from tests.support.stage import until


class Follower:
    """Copies of a namespace's Services behind a proxy; all waiting is written down and takes no time."""

    def __init__(self, access: api.Access, namespace: str) -> None:
        self.proxy = faults.Proxy(access)
        self.clock, self.lists, self.watches = HastyClock(), 0, 0
        self._access, self._path = access, sight.SERVICE.path(namespace)

    async def start(self, status: int, silent_s: float = 150.0) -> None:
        """Watches are refused so; 0: they run. They end after `silent_s` of silence."""
        await self.proxy.start()
        self.refuse(status)
        access = self.proxy.access
        self.client = kube.KubeClient(
            access.server, access.ssl_context(), access.token, clock=HastyClock(), silent_s=silent_s
        )
        self.informer = cache.Informer(self.client, self.clock, cache.Store(), [self._path])
        await self.informer.start()

    def refuse(self, status: int) -> None:
        """From here on."""

        def rule(request: faults.Request) -> Fault:
            self.lists += not request.watches
            return Fault(status=status) if request.watches else Fault()

        self.proxy.rule = rule

    async def stop(self) -> None:
        """All of it."""
        await self.informer.stop()
        await self.client.close()
        await self.proxy.stop()


@pytest_asyncio.fixture
async def follower(access: api.Access, namespace: str) -> AsyncIterator[Follower]:
    """Not started."""
    found = Follower(access, namespace)
    yield found
    await found.stop()


async def test_a_watch_that_is_refused_is_tried_less_and_less(follower: Follower) -> None:
    """Its version is kept, passes know that no watch runs, and one that runs again is in step at once."""
    await follower.start(429)
    await until(lambda: len(follower.clock.slept_s) >= 7)
    assert follower.clock.slept_s[:7] == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert follower.lists == 1
    assert follower.informer.synced and not follower.informer.in_step
    follower.refuse(0)
    await until(lambda: follower.informer.in_step)
    follower.clock.slept_s.clear()
    follower.proxy.cut()
    await until(lambda: follower.clock.slept_s)
    assert follower.clock.slept_s[0] == 0.5, "the wait begins anew"


async def test_history_that_is_never_kept_does_not_make_it_list_all_the_time(follower: Follower) -> None:
    """The first time a new list is made at once, then later each time."""
    await follower.start(410)
    await until(lambda: len(follower.clock.slept_s) >= 4)
    assert follower.clock.slept_s[:4] == [0.5, 1.0, 2.0, 4.0]
    assert follower.lists - len(follower.clock.slept_s) in (1, 2)
    assert not follower.informer.in_step


def service(namespace: str) -> dict[str, Any]:
    """One that can be made."""
    meta = {"name": "made", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 80}]}}


async def test_an_answer_that_comes_late_brings_nothing_back(
    follower: Follower, server: api.Api, namespace: str
) -> None:
    """Written by the operator, deleted by somebody, and only then answered: it stays gone."""
    await follower.start(0)
    await until(lambda: follower.informer.in_step)
    follower.proxy.rule = lambda request: Fault(answer_delay_s=1.0 if request.writes else 0.0)
    document = service(namespace)
    writing = asyncio.create_task(follower.client.apply(sight.SERVICE.path(namespace, "made"), document))
    await until(lambda: len(follower.informer.store) == 1)
    assert not writing.done()
    assert server.delete(document, namespace).is_success
    await until(lambda: len(follower.informer.store) == 0)
    assert not writing.done()
    follower.informer.take(await writing)
    assert len(follower.informer.store) == 0


async def test_a_watch_that_tells_nothing_any_more_is_opened_again(
    follower: Follower, server: api.Api, namespace: str
) -> None:
    """As behind a path that swallows what is sent and closes nothing; what happened meanwhile is seen."""
    await follower.start(0, silent_s=1.0)
    await until(lambda: follower.informer.in_step)

    def swallowed(request: faults.Request) -> Fault:
        follower.watches += request.watches
        return Fault(silent=request.watches)

    follower.proxy.rule = swallowed
    follower.proxy.cut()
    await until(lambda: follower.watches and follower.informer.in_step)
    assert server.apply(service(namespace), namespace).is_success
    silent = follower.watches
    await until(lambda: follower.watches > silent + 1)
    assert len(follower.informer.store) == 0
    follower.refuse(0)
    await until(lambda: len(follower.informer.store) == 1)


@pytest.mark.parametrize(
    ("named", "goes_on"), [(("here", "gone"), True), (("gone",), False)], ids=["one of two", "the only one"]
)
async def test_a_namespace_that_is_gone_holds_up_no_other(
    access: api.Access, namespace: str, named: tuple[str, ...], goes_on: bool
) -> None:
    """Its RoleBinding went with it, so that every list there is refused: the copies of the others are whole, and it is told."""
    proxy = faults.Proxy(access, lambda request: Fault(status=403) if "/namespaces/gone/" in request.path else Fault())
    await proxy.start()
    client = kube.KubeClient(proxy.access.server, proxy.access.ssl_context(), proxy.access.token)
    spaces = tuple(namespace if each == "here" else each for each in named)
    found = copies.Copies(client, clocks.SystemClock(), spaces, lambda key: None)
    await found.start()
    try:
        await until(lambda: found.deployments.refused(sight.DEPLOYMENT.path("gone")))
        if goes_on:
            await until(lambda: found.synced)
        else:
            wide = [found.profiles, *(each for kind, each in found.unbuilt.items() if not kind.KIND.namespaced)]
            await until(lambda: all(each.synced for each in wide))
        assert found.synced == goes_on and not found.in_step
    finally:
        await found.stop()
        await client.close()
        await proxy.stop()

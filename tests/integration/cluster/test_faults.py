"""Whatever goes wrong on the way, the end is that of an undisturbed run: nothing doubled, nothing left over."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any

import pytest

from operators import kube, pods, sight
from penstock.api import types
from penstock.runtime import errors
from tests.cluster import api, faults
from tests.cluster.faults import Fault
from tests.support import end_state
from tests.support.clocks import HastyClock
from tests.support.stage import Stage

pytestmark = pytest.mark.slow
_NUMBERS = itertools.count(1)


class Run:
    """One life of a deployment, with an operator behind a proxy; a dead operator is followed by a healthy one."""

    def __init__(self, server: api.Api, access: api.Access, rule: faults.Rule) -> None:
        self.proxy = faults.Proxy(access, rule)
        self.direct = kube.KubeClient(access.server, access.ssl_context(), access.token)
        self.name = f"penstock-faults-{os.getpid()}-{next(_NUMBERS)}"
        self.stage = Stage(server, self.direct, self.name)
        self.clock = HastyClock()
        self.deaths = 0
        self.most = 0

    async def play(self) -> Any:
        """Create, roll out, scale out; the state at the end."""
        stage = self.stage
        await self.proxy.start()
        access = self.proxy.access
        client = kube.KubeClient(access.server, access.ssl_context(), access.token, clock=self.clock)
        self.operator = stage.another(client)
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}}
        assert stage.server.create(document, "").is_success
        try:
            stage.create(replicas=1)
            await self._until_settled(1)
            # The roll-out makes, drains and deletes.
            for image, replicas in (("penstock:second", 1), ("penstock:second", 2)):
                path = sight.DEPLOYMENT.path(self.name, "m")
                change = {"spec": {"replicas": replicas, "engine": {"kind": "sim", "image": image}}}
                assert stage.server.merge(path, change).is_success
                await self._until_settled(replicas)
            return await self._state()
        finally:
            stage.server.delete(document, "")
            await client.close()
            await self.direct.close()
            await self.proxy.stop()

    async def _until_settled(self, wanted: int) -> None:
        for _ in range(120):
            settled = False
            try:
                settled = (await self.operator.reconcile(self.name, "m")).settled
            except errors.RetryableError:
                if self.proxy.dead:
                    # Another process: it knows nothing of the one before.
                    self.deaths += 1
                    self.operator, self.proxy.dead = self.stage.another(self.direct), False
            found = self.stage.pods()
            self.most = max(self.most, len(found))
            if settled and len(found) == wanted:
                return
            await self._hands(found)
            await self.stage.clock.advance(1)
        raise AssertionError(self.stage.deployment()["status"])

    async def _hands(self, found: dict[str, Any]) -> None:
        """What kubelets and agents do: a Pod runs and registers once, a drained worker leaves."""
        known = {each.record.id: each.record for each in await self.stage.registry.snapshot()}
        for name, pod in found.items():
            drains = pods.DRAIN_ANNOTATION in pod["metadata"].get("annotations", {})
            if name not in known and not drains:
                self.stage.pod_says(name, "Running", ready=True, podIP=f"10.0.0.{name[-1]}")
                await self.stage.register(name)
            elif name in known and known[name].state is types.WorkerState.DRAINING:
                await self.stage.registry.deregister(name, known[name].incarnation)
        for name in set(known) - set(found):
            await self.stage.registry.deregister(name, known[name].incarnation)

    async def _state(self) -> Any:
        """All that is left, in the API server and in the registry."""
        await self._hands(self.stage.pods())
        return {**end_state.of(self.stage.server, self.name), "states": await self.stage.states()}


def passes(request: faults.Request) -> Fault:
    """Nothing goes wrong."""
    return Fault()


@pytest.fixture(scope="module")
def undisturbed(server: api.Api, access: api.Access) -> tuple[Any, int]:
    """The end state of a run in which nothing goes wrong, and how many writes it took."""
    run, state = asyncio.run(_played(server, access))
    assert run.most == 2, "one wanted and one more while it is replaced"
    return state, run.proxy.writes


async def _played(server: api.Api, access: api.Access) -> tuple[Run, Any]:
    run = Run(server, access, passes)
    return run, await run.play()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_killed_at_every_command_boundary(
    server: api.Api, access: api.Access, undisturbed: tuple[Any, int], moment: str
) -> None:
    """The operator dies at its n-th write, for every n; another goes on, and all is as if nothing had happened."""
    wanted, writes = undisturbed
    assert writes > 25
    room = asyncio.Semaphore(6)

    async def one(number: int) -> None:
        async with room:
            run = Run(server, access, faults.dies_at(number, moment))
            state = await run.play()
            # After the very last write nothing is asked any more.
            assert run.deaths == 1 or run.proxy.dead, number
            assert state == wanted, f"died {moment} write {number}"
            assert run.most == 2

    async with asyncio.TaskGroup() as group:
        for number in range(writes):
            group.create_task(one(number))


RULES: dict[str, Callable[[], faults.Rule]] = {
    "every other answer to a write is lost": lambda: faults.every(2, Fault(drop="after")),
    "every third write never arrives": lambda: faults.every(3, Fault(drop="before")),
    "a tenth of the requests is refused with 429": lambda: faults.some(0.1, Fault(status=429)),
    "a tenth of the requests is refused with 503": lambda: faults.some(0.1, Fault(status=503)),
    "a quarter of the requests is refused with 429": lambda: faults.some(0.25, Fault(status=429)),
    "a quarter of the requests is refused with 503": lambda: faults.some(0.25, Fault(status=503)),
    "every fifth request takes 0.2 s": lambda: faults.every(5, Fault(delay_s=0.2), writes=False),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
async def test_the_end_is_the_same(
    server: api.Api, access: api.Access, undisturbed: tuple[Any, int], rule: Callable[[], faults.Rule]
) -> None:
    """Lost answers, lost requests, refusals and slow calls change nothing but the time it takes."""
    wanted, _ = undisturbed
    run = Run(server, access, rule())
    assert await run.play() == wanted
    assert run.proxy.hurt > 5
    assert sum(run.clock.slept_s) == run.proxy.refused, "each refusal says `Retry-After: 1`"
    assert run.most == 2

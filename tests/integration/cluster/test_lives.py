"""An operator process through a deployment's life, while what it stands on fails: the end is that of an undisturbed life."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from operators import pods, sight
from penstock.api import types
from penstock.runtime import tasks
from tests.cluster import control_plane, faults
from tests.cluster.faults import Fault
from tests.support import bench as benches
from tests.support import end_state
from tests.support.bench import Bench

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
Trouble = Callable[[Bench], contextlib.AbstractAsyncContextManager[None]]
_STEP_DEADLINE_S = 60.0
# Of a roll-out of two workers and of one more after it.
_LEAST_WRITES = 15
_AT_ONCE = 5


class Life:
    """A deployment `m` with hands that do what kubelets and agents do."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.most = bench, 0
        self._path = sight.DEPLOYMENT.path(bench.namespace, "m")

    async def play(self, trouble: Trouble) -> dict[str, Any]:
        """Made, rolled out with the trouble in it, scaled out; the end."""
        await self.begin()
        async with trouble(self.bench):
            await self.hands()
        return await self.finish()

    async def begin(self) -> None:
        """Made, and a roll-out asked for."""
        self.bench.deploy("m", 2)
        await self.settled(2)
        change = {"spec": {"engine": {"kind": "sim", "image": "penstock:second"}}}
        assert self.bench.server.merge(self._path, change).is_success

    async def finish(self) -> dict[str, Any]:
        """Rolled out and scaled out; the end."""
        await self.settled(2)
        self.bench.scale("m", 3)
        await self.settled(3)
        return {
            **end_state.of(self.bench.server, self.bench.namespace),
            "states": await self.bench.states(),
            "told": await self.bench.told(),
        }

    async def settled(self, replicas: int) -> None:
        """All is as asked, and the operator has said so."""
        try:
            async with asyncio.timeout(_STEP_DEADLINE_S):
                while not self._is_settled(replicas):
                    await self.hands()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{self._found()}\n{self.bench.operator.log()[-3000:]}") from None

    def _found(self) -> Any:
        return self.bench.server.get(self._path).json()

    def _is_settled(self, replicas: int) -> bool:
        found = self._found()
        status, conditions = found.get("status", {}), {}
        for each in status.get("conditions", ()):
            conditions[each["type"]] = each["reason"]
        return (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and status["workers"] == f"{replicas}/{replicas}"
            and conditions.get("Ready") == "AllReady"
            and conditions.get("Progressing") == "RolloutComplete"
            and len(self.bench.pods()) == replicas
        )

    async def hands(self) -> None:
        """New Pods run and register once, drained workers leave, and so do those whose Pod is gone."""
        listed = self.bench.server.get(sight.POD.path(self.bench.namespace)).json()["items"]
        found = {each["metadata"]["name"]: each for each in listed}
        self.most = max(self.most, len(found))
        known = {each.record.id: each.record for each in await self.bench.registry.snapshot()}
        for name, pod in found.items():
            if name not in known and pods.DRAIN_ANNOTATION not in pod["metadata"].get("annotations", {}):
                await self.bench.serve(name)
        for name, record in known.items():
            if name not in found or record.state is types.WorkerState.DRAINING:
                await self.bench.registry.deregister(name, record.incarnation)


@contextlib.asynccontextmanager
async def none(bench: Bench) -> AsyncIterator[None]:
    """Nothing goes wrong."""
    yield


@contextlib.asynccontextmanager
async def restarted(bench: Bench) -> AsyncIterator[None]:
    """The API server ends at once and starts again."""
    yield
    await asyncio.to_thread(bench.plane.crash, "kube-apiserver")
    await bench.start_server()


@contextlib.asynccontextmanager
async def forgetful(bench: Bench) -> AsyncIterator[None]:
    """All watches are cut, and the history from which they would go on is gone when the API server is there again."""
    yield
    await asyncio.to_thread(bench.plane.crash, "kube-apiserver")
    bench.proxy.cut()
    await asyncio.to_thread(bench.plane.compact)
    await bench.start_server()


@contextlib.asynccontextmanager
async def stalled(bench: Bench) -> AsyncIterator[None]:
    """etcd takes what it is sent and answers nothing, for longer than the operator's Lease lasts."""
    yield
    bench.plane.signal("etcd", signal.SIGSTOP)
    try:
        await bench.until(lambda: not bench.operator.leads, 30.0)
    finally:
        bench.plane.signal("etcd", signal.SIGCONT)


@contextlib.asynccontextmanager
async def slow(bench: Bench) -> AsyncIterator[None]:
    """Each call takes a second, from here on."""
    bench.proxy.rule = lambda request: Fault() if request.watches else Fault(delay_s=1.0)
    yield


@contextlib.asynccontextmanager
async def refusing(bench: Bench) -> AsyncIterator[None]:
    """A quarter of the calls is refused, from here on."""
    bench.proxy.rule = faults.some(0.25, Fault(status=429), watches=True)
    yield


@contextlib.asynccontextmanager
async def killed(bench: Bench) -> AsyncIterator[None]:
    """The operator is killed as soon as it has written something, and another starts."""
    written = bench.proxy.writes
    await bench.until(lambda: bench.proxy.writes > written)
    await asyncio.to_thread(bench.operator.kill)
    bench.operator.start()
    yield


TROUBLES = (restarted, forgetful, stalled, slow, refusing, killed)


@pytest.fixture(scope="module")
def played() -> dict[str, Any]:
    """How the undisturbed life ended, once it was played."""
    return {}


@pytest_asyncio.fixture
async def undisturbed(
    tmp_path: pathlib.Path, breakable: control_plane.ControlPlane, played: dict[str, Any]
) -> dict[str, Any]:
    """How a life ends in which nothing goes wrong; played for whichever test is the first."""
    if not played:
        folder = tmp_path / "undisturbed"
        folder.mkdir()
        async with benches.running(folder, breakable) as bench:
            played |= await Life(bench).play(none)
    return played


@pytest.mark.parametrize(
    "trouble", [pytest.param(each, marks=pytest.mark.long) if each is slow else each for each in TROUBLES]
)
async def test_the_end_is_that_of_an_undisturbed_life(
    undisturbed: dict[str, Any], bench: Bench, trouble: Trouble
) -> None:
    """Nothing is doubled and nothing is left over, whatever fails in a roll-out."""
    life = Life(bench)
    end = await life.play(trouble)
    assert end == undisturbed
    assert set(end["states"].values()) == {"ready"} and set(end["states"]) == set(end["pods"])
    if trouble in (slow, refusing):
        assert "not_leading" not in bench.operator.log(), "calls that get through late keep the Lease"
    assert life.most == 3, "two wanted and one more while they are replaced"


async def killed_after(bench: Bench, number: int) -> tuple[dict[str, Any], int]:
    """A life whose operator is killed when it has made its n-th write of the roll-out or after it: its end, and how many it made."""
    life, written = Life(bench), 0
    await life.begin()

    def rule(request: faults.Request) -> Fault:
        nonlocal written
        # What the Lease says is no command.
        if not request.writes or "/leases/" in request.path:
            return Fault()
        written += 1
        return Fault(drop="after", dies=True) if written - 1 == number else Fault()

    bench.proxy.rule = rule
    finish = asyncio.create_task(life.finish())
    try:
        while not finish.done():
            await asyncio.sleep(0.02)
            if bench.proxy.dead:
                await asyncio.to_thread(bench.operator.kill)
                bench.proxy.dead = False
                bench.operator.start()
        end = await finish
    finally:
        await tasks.cancel([finish])
    assert life.most == 3, number
    return end, written


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_a_process_that_is_killed_after_each_of_its_writes(
    tmp_path: pathlib.Path, breakable: control_plane.ControlPlane, undisturbed: dict[str, Any]
) -> None:
    """With its copies of the cluster and a registry in Redis: whichever write was its last, the end is the same."""
    died = 0

    async def one(number: int) -> int:
        nonlocal died
        folder = tmp_path / str(number)
        folder.mkdir()
        async with benches.running(folder, breakable) as bench:
            end, written = await killed_after(bench, number)
            assert end == undisturbed, number
            died += bench.operator.starts > 1
            return written

    writes = await one(-1)
    print(f"{writes} writes")
    for first in range(0, writes, _AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for number in range(first, min(writes, first + _AT_ONCE)):
                group.create_task(one(number))
    # By what comes together, a life has a few statuses and events more than another.
    assert writes >= _LEAST_WRITES and died > 0.8 * writes

"""Whatever goes wrong on the way, the end is that of an undisturbed run: nothing doubled, nothing left over."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

import pytest

from operators import history, kube, pods, sight
from penstock.api import types
from penstock.runtime import errors
from tests.cluster import api, faults
from tests.cluster.faults import Fault
from tests.support import end_state, kuberay
from tests.support.clocks import HastyClock
from tests.support.stage import Stage

pytestmark = pytest.mark.slow
_NUMBERS = itertools.count(1)


class Run:
    """One life of a deployment, with an operator behind a proxy; a dead operator is followed by a healthy one."""

    def __init__(self, server: api.Api, access: api.Access, rule: faults.Rule, timeout_s: float = 30.0) -> None:
        """`timeout_s`: how long the operator waits for an answer."""
        self._timeout_s = timeout_s
        self.proxy, self._rule = faults.Proxy(access), rule
        self.direct = kube.KubeClient(access.server, access.ssl_context(), access.token)
        self.name = f"penstock-faults-{os.getpid()}-{next(_NUMBERS)}"
        self.stage = Stage(server, self.direct, self.name)
        self.kuberay = kuberay.Played(server, self.name)
        self.clock = HastyClock()
        # Kinds of Gateway API that there are.
        self.routing: tuple[sight.Kind, ...] = ()
        self.deaths = 0
        self.most = 0
        # Writes while the rule held.
        self.writes = 0

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """A namespace of its own, with the first operator."""
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}}
        await self.proxy.start()
        access = self.proxy.access
        client = kube.KubeClient(
            access.server, access.ssl_context(), access.token, timeout_s=self._timeout_s, clock=self.clock
        )
        self.stage.optional = (*self.kuberay.kinds, *self.routing)
        self.operator = self.stage.another(client)
        assert self.stage.server.create(document, "").is_success
        try:
            yield
        finally:
            self.stage.server.delete(document, "")
            await client.close()
            await self.direct.close()
            await self.proxy.stop()

    async def play(self, story: Story) -> Any:
        """What happens in a story, at first without faults; the state at the end."""
        if story.routed:
            self.routing = (sight.POOL, sight.ROUTE)
            self.stage.host = dataclasses.replace(self.stage.host, picker=f"{self.name}/gateways:9002")
        async with self.living():
            for step in story.before:
                await self._until_settled(await step(self))
            self.proxy.writes, self.proxy.rule = 0, self._rule
            for step in story.then:
                wanted = await step(self)
                await self._until_settled(wanted)
            # The pass in which a roll-out is complete says so, the one after it that it was.
            await self._until_settled(wanted)
            self.writes = self.proxy.writes
            return await self._state()

    async def end_in_the_middle(self) -> None:
        """A first worker is made until the rule ends the operator; then the deployment is deleted."""
        self.proxy.rule = self._rule
        self.stage.create(1)
        for _ in range(20):
            with contextlib.suppress(errors.RetryableError):
                await self.operator.reconcile(self.name, "m")
            if self.proxy.dead:
                break
            await self._hands(self._workers())
        else:
            raise AssertionError("the operator has not ended")
        assert self.stage.server.delete(self.stage.deployment(), self.name).is_success

    async def _until_settled(self, wanted: int) -> None:
        for _ in range(120):
            settled, before = False, self.stage.deployment()
            try:
                settled = (await self.operator.reconcile(self.name, "m")).settled
            except errors.RetryableError:
                if self.proxy.dead:
                    # Another process: it knows nothing of the one before.
                    self.deaths += 1
                    self.operator, self.proxy.dead = self.stage.another(self.direct), False
            found = self._workers()
            self.most = max(self.most, len(found))
            if len(found) == wanted and (settled or self._is_given_up(found, before)):
                return
            await self._hands(found)
            await self.stage.clock.advance(1)
        raise AssertionError(self.stage.deployment()["status"])

    def _is_given_up(self, found: dict[str, Any], before: Any) -> bool:
        """Whether a roll-out has failed, every worker is of the revision before, and the last pass had nothing more to say."""
        now = self.stage.deployment()
        if now != before or self.proxy.dead:
            return False
        status = now.get("status", {})
        revisions = {each["metadata"]["labels"][pods.REVISION_LABEL] for each in found.values()}
        whole = status.get("workers") == f"{len(found)}/{len(found)}"
        return whole and bool(status["rollout"].get("rejected")) and revisions == {status["revision"]}

    def _workers(self) -> dict[str, Any]:
        """Pods and units by name; what KubeRay makes of units is there."""
        pods_of_units = self.kuberay.act()
        return {
            name: pod for name, pod in self.stage.pods().items() if name not in pods_of_units
        } | self.kuberay.units()

    async def _hands(self, found: dict[str, Any]) -> None:
        """What kubelets and agents do: a Pod runs and registers once, a drained worker leaves."""
        known = {each.record.id: each.record for each in await self.stage.registry.snapshot()}
        for name, worker in found.items():
            drains = pods.DRAIN_ANNOTATION in worker["metadata"].get("annotations", {})
            if images_of(worker) == {BROKEN}:
                waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
                self.stage.pod_says(name, "Pending", containerStatuses=[waits("worker", waiting)])
            elif name not in known and not drains:
                for pod in self.kuberay.pods_of(name) or [name]:
                    self.stage.pod_says(pod, "Running", ready=True, podIP=f"10.0.0.{name[-1]}")
                await self.stage.register(name)
            elif name in known and known[name].state is types.WorkerState.DRAINING:
                await self.stage.registry.deregister(name, known[name].incarnation)
        for name in set(known) - set(found):
            await self.stage.registry.deregister(name, known[name].incarnation)

    async def _state(self) -> Any:
        """All that is left, in the API server and in the registry."""
        await self._hands(self._workers())
        return {**end_state.of(self.stage.server, self.name), "states": await self.stage.states()}


# An image that no registry has.
BROKEN = "penstock:broken"


def images_of(worker: Any) -> set[str]:
    """Of a Pod's containers; empty for units."""
    return {each["image"] for each in worker["spec"].get("containers", ())}


def waits(container: str, why: dict[str, str]) -> dict[str, Any]:
    """The status of a container that is not started."""
    return {"name": container, "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": {"waiting": why}}


# What a person does, and how many workers there are in the end.
Step = Callable[[Run], Awaitable[int]]


@dataclasses.dataclass(frozen=True)
class Story:
    """What goes before without faults, and then what is disturbed."""

    before: Sequence[Step]
    then: Sequence[Step]
    # Workers at a time.
    most: int
    # Writes that it takes, so that a walk over nothing is noticed.
    writes: int
    # Whether the cluster has Gateway API, and gateways their endpoint picker.
    routed: bool = False
    long: bool = False


def creates(replicas: int, **spec: Any) -> Step:
    """A new deployment."""

    async def step(run: Run) -> int:
        run.stage.create(replicas, **spec)
        return replicas

    return step


def changes(replicas: int, image: str = "penstock:second", kind: str = "sim") -> Step:
    """Another specification: a roll-out makes, drains and deletes."""

    async def step(run: Run) -> int:
        change = {"spec": {"replicas": replicas, "engine": {"kind": kind, "image": image}}}
        assert run.stage.server.merge(sight.DEPLOYMENT.path(run.name, "m"), change).is_success
        return replicas

    return step


async def scales_in(run: Run) -> int:
    """One worker of two drains and goes."""
    run.stage.scale(1)
    return 1


async def scales_out(run: Run) -> int:
    """One more."""
    run.stage.scale(2)
    return 2


async def undoes(run: Run) -> int:
    """Back to the revision before."""
    await history.History(run.direct, run.name, run.stage.clock).undo("m")
    return int(run.stage.deployment()["spec"]["replicas"])


SPANNING = {
    "model": {"name": "big", "source": {"hub": {"repo": "org/big", "revision": "abc"}}},
    "engine": {"kind": "vllm", "image": "vllm:first"},
    "parallelism": {"tensor": 2, "pipeline": 2, "nodes": 2},
}
CANARY = {"rollout": {"canary": {"percent": 50, "watchFor": "10s"}}}
SERVED = {"hosting": "RayServe", "engine": {"kind": "sim", "image": "penstock:first"}}
ROUTED = {"gateway": {"parentRefs": [{"name": "shared", "namespace": "infra"}]}}
STORIES = {
    "grows": Story((), (creates(1), changes(1), changes(2)), 2, 25),
    "shrinks": Story((creates(2),), (scales_in,), 2, 5),
    "goes back": Story((creates(1), changes(1)), (undoes,), 2, 12, long=True),
    "spans nodes": Story((), (creates(1, **SPANNING), changes(1, "vllm:second", "vllm")), 2, 20, long=True),
    "has a canary": Story((creates(2, **CANARY),), (changes(2),), 3, 10, long=True),
    "is rolled back": Story((creates(2),), (changes(2, BROKEN),), 3, 5, long=True),
    "is hosted by Ray Serve": Story((), (creates(1, **SERVED), changes(1)), 2, 15, long=True),
    "has a route": Story((), (creates(1, **ROUTED), changes(1), scales_out), 2, 20, routed=True, long=True),
}


def passes(request: faults.Request) -> Fault:
    """Nothing goes wrong."""
    return Fault()


class Undisturbed:
    """Of each story the end state where nothing goes wrong, and how many writes it took."""

    def __init__(self, server: api.Api, access: api.Access) -> None:
        self._server, self._access = server, access
        self._known: dict[str, tuple[Any, int]] = {}

    async def of(self, name: str) -> tuple[Any, int]:
        """Played once."""
        if name not in self._known:
            run = Run(self._server, self._access, passes)
            state = await run.play(STORIES[name])
            assert run.most == STORIES[name].most
            self._known[name] = state, run.writes
        return self._known[name]


@pytest.fixture(scope="module")
def undisturbed(server: api.Api, access: api.Access, rayclusters: None) -> Undisturbed:
    """What the disturbed lives are compared with."""
    return Undisturbed(server, access)


# Before a write is after the one before it: one moment is enough to be at every boundary.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("shrinks", "after"), *(pytest.param("grows", moment, marks=pytest.mark.long) for moment in ("before", "after")),
        *(pytest.param(name, "after", marks=pytest.mark.long) for name, story in STORIES.items() if story.long),
    ],
)  # fmt: skip
async def test_killed_at_every_command_boundary(
    request: pytest.FixtureRequest,
    server: api.Api,
    access: api.Access,
    undisturbed: Undisturbed,
    name: str,
    moment: str,
) -> None:
    """The operator dies at its n-th write, for every n; another goes on, and all is as if nothing had happened."""
    story = STORIES[name]
    if story.routed:
        request.getfixturevalue("gateway_api")
    wanted, writes = await undisturbed.of(name)
    assert writes > story.writes

    async def one(number: int) -> None:
        run = Run(server, access, faults.dies_at(number, moment))
        state = await run.play(story)
        # After the very last write nothing is asked any more.
        assert run.deaths == 1 or run.proxy.dead, number
        assert state == wanted, f"died {moment} write {number}"
        assert run.most == story.most

    await _six_at_a_time(one(number) for number in range(writes))


async def test_deleted_while_the_operator_is_dead(server: api.Api, access: api.Access, rayclusters: None) -> None:
    """It dies at its n-th write, the deployment is deleted: the next one changes nothing, Kubernetes finds all by its owner."""
    kinds = (sight.POD, sight.REVISION, sight.BUDGET, sight.SERVICE, sight.SLICE)

    async def one(number: int) -> int:
        run = Run(server, access, faults.dies_at(number, "after"))

        def left() -> list[Any]:
            return [each["metadata"] for kind in kinds for each in server.get(kind.path(run.name)).json()["items"]]

        async with run.living():
            await run.end_in_the_middle()
            before = left()
            assert (await run.stage.another().reconcile(run.name, "m")).settled
            assert left() == before, number
            owners = {owner["uid"] for each in before for owner in each.get("ownerReferences", [{"uid": "nobody"}])}
            assert len(owners) == 1 and "nobody" not in owners, number
            return len(before)

    counts = [await one(number) for number in range(10)]
    assert counts[0] == 1 and counts[-1] >= 4, "from the first object to the last"


async def test_two_deployments_share_no_workers_name(server: api.Api, access: api.Access, rayclusters: None) -> None:
    """`m` with role `b` and `m-b` both come to `m-b-0`, as objects of two kinds: the second is told that it is taken."""
    run = Run(server, access, passes)
    async with run.living():
        about = {"apiVersion": "penstock.dev/v1alpha1", "kind": "ModelDeployment"}
        spec = {"model": {"name": "tiny"}, "engine": {"kind": "sim"}}
        assert server.create(about | {"metadata": {"name": "m-b"}, "spec": spec}, run.name).is_success
        await run.operator.reconcile(run.name, "m-b")
        assert set(run.stage.pods()) == {"m-b-0"}
        run.stage.create(1, **SPANNING, roles=[{"name": "b"}])
        with pytest.raises(errors.TerminalError):
            await run.operator.reconcile(run.name, "m")
        assert run.stage.ready()["reason"] == "NameTaken"
        assert run.kuberay.units() == {}


async def _six_at_a_time(lives: Iterable[Coroutine[Any, Any, None]]) -> None:
    room = asyncio.Semaphore(6)

    async def in_turn(life: Coroutine[Any, Any, None]) -> None:
        async with room:
            await life

    async with asyncio.TaskGroup() as group:
        for each in lives:
            group.create_task(in_turn(each))


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
    server: api.Api, access: api.Access, undisturbed: Undisturbed, rule: Callable[[], faults.Rule]
) -> None:
    """Lost answers, lost requests, refusals and slow calls change nothing but the time it takes."""
    wanted, _ = await undisturbed.of("grows")
    run = Run(server, access, rule())
    assert await run.play(STORIES["grows"]) == wanted
    assert run.proxy.hurt > 5
    assert sum(run.clock.slept_s) == run.proxy.refused, "each refusal says `Retry-After: 1`"
    assert run.most == 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("rule", "timeout_s"),
    [(Fault(status=409), 30.0), (Fault(delay_s=1.0), 0.5)],
    ids=["a quarter of the writes meets a conflict", "a quarter of the writes is done after the operator gave up"],
)
async def test_conflicts_and_timeouts_end_the_same(
    server: api.Api, access: api.Access, undisturbed: Undisturbed, rule: Fault, timeout_s: float
) -> None:
    """A conflict that is none, and a write whose answer comes too late: all is looked at again, nothing is there twice."""
    wanted, _ = await undisturbed.of("grows")
    run = Run(server, access, faults.every(4, rule), timeout_s)
    assert await run.play(STORIES["grows"]) == wanted
    assert run.proxy.hurt > 5
    assert run.most == 2

"""The operator on a real API server. Nothing schedules or runs Pods here: the tests write what a kubelet would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from operators import deployments, kube, loop, pods, unbuilt
from penstock.api import types
from penstock.runtime import clock as clocks
from penstock.runtime import errors, processes, registry, tasks
from tests.cluster import api
from tests.support import custom_resources as support

_DEADLINE_S = 20.0


class Stage:
    """A namespace with an operator's parts, and hands that do what a kubelet and workers do."""

    def __init__(self, server: api.Api, client: kube.KubeClient, namespace: str) -> None:
        self.server, self.client, self.namespace = server, client, namespace
        self.clock = clocks.ManualClock(1_800_000_000.0)
        self.registry = registry.MemoryRegistry(self.clock)
        host = pods.WorkerHost("penstock:test", "redis")
        self.reconciler = deployments.DeploymentReconciler(client, self.registry, self.clock, host)

    def create(self, replicas: int = 2, **spec: Any) -> None:
        """A deployment `m` of simulated workers."""
        document = {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "m"},
            "spec": {"model": {"name": "tiny"}, "engine": {"kind": "sim"}, "replicas": replicas, **spec},
        }
        made = self.server.create(document, self.namespace)
        assert made.is_success, made.text

    def scale(self, replicas: int) -> None:
        """As `kubectl scale`."""
        path = deployments.deployment_path(self.namespace, "m")
        assert self.server.merge(f"{path}/scale", {"spec": {"replicas": replicas}}).is_success

    async def once(self) -> bool:
        """One pass."""
        return await self.reconciler.reconcile(self.namespace, "m")

    def pods(self) -> dict[str, Any]:
        """Pods by name."""
        found = self.server.get(deployments.pod_path(self.namespace)).json()["items"]
        return {each["metadata"]["name"]: each for each in found}

    def deployment(self) -> Any:
        """The deployment as it is."""
        return self.server.get(deployments.deployment_path(self.namespace, "m")).json()

    def ready(self) -> Any:
        """Its Ready condition."""
        return self.deployment()["status"]["conditions"][0]

    def pod_says(self, name: str, phase: str, *, ready: bool = False, **status: Any) -> None:
        """What a kubelet writes."""
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        change = {"status": {"phase": phase, "conditions": conditions, **status}}
        said = self.server.merge(f"{deployments.pod_path(self.namespace, name)}/status", change)
        assert said.is_success, said.text

    async def register(self, name: str) -> int:
        """What a worker writes when its engine answers; its incarnation."""
        incarnation = await self.registry.next_incarnation()
        record = types.WorkerRecord(
            id=name,
            incarnation=incarnation,
            deployment="m",
            model="tiny",
            endpoint=types.Endpoint(host="10.0.0.1", port=8000),
            state=types.WorkerState.READY,
            engine="sim",
        )
        await self.registry.register(record, 1e6)
        return incarnation

    async def serve(self, name: str) -> int:
        """A Pod that runs, with its worker registered."""
        self.pod_says(name, "Running", ready=True)
        return await self.register(name)

    def events(self) -> list[str]:
        """Reasons of the deployment's events, with how often each was said."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        found = self.server.get(path).json()["items"]
        return sorted(each["reason"] for each in found if each["regarding"]["name"] == "m")

    async def states(self) -> dict[str, str]:
        """What the registry says of each worker."""
        return {each.record.id: str(each.record.state) for each in await self.registry.snapshot()}


@pytest_asyncio.fixture
async def stage(server: api.Api, access: api.Access, namespace: str) -> AsyncIterator[Stage]:
    """An operator's parts in a namespace of their own."""
    client = kube.KubeClient(access.server, access.ssl_context(), access.token)
    yield Stage(server, client, namespace)
    await client.close()


async def until(check: Callable[[], object]) -> None:
    """Waits until `check` is true."""
    async with asyncio.timeout(_DEADLINE_S):
        while not check():
            await asyncio.sleep(0.02)


async def test_workers_are_created_and_become_ready(stage: Stage) -> None:
    """Pods come with the first pass; the deployment is Ready when Pods and registry say so."""
    stage.create()
    assert not await stage.once()
    assert sorted(stage.pods()) == ["m-0", "m-1"]
    assert stage.ready()["reason"] == "WorkersStarting"
    await stage.serve("m-0")
    await stage.once()
    assert stage.ready()["message"] == "1 of 2 unified workers are ready"
    await stage.serve("m-1")
    assert await stage.once()
    assert (stage.ready()["status"], stage.ready()["reason"]) == ("True", "AllReady")
    status = stage.deployment()["status"]
    assert (status["workers"], status["replicas"], status["readyReplicas"]) == ("2/2", 2, 2)
    assert status["observedGeneration"] == stage.deployment()["metadata"]["generation"] == 1


async def test_a_pass_without_a_change_writes_nothing(stage: Stage) -> None:
    """A second pass leaves every object at its version."""
    stage.create()
    await stage.once()
    await stage.once()
    before = stage.deployment()["metadata"]["resourceVersion"], stage.pods()
    assert stage.events() == ["WorkerCreated", "WorkerCreated", "WorkersStarting"]
    await stage.clock.advance(3600)
    await stage.once()
    assert (stage.deployment()["metadata"]["resourceVersion"], stage.pods()) == before
    assert stage.events() == ["WorkerCreated", "WorkerCreated", "WorkersStarting"]


async def test_scaling_in_drains_before_it_deletes(stage: Stage) -> None:
    """The worker is told in the registry and keeps its Pod until it has left; the other one serves on."""
    stage.create()
    await stage.once()
    await stage.serve("m-0")
    leaving = await stage.serve("m-1")
    stage.scale(1)
    await stage.once()
    assert await stage.states() == {"m-0": "ready", "m-1": "draining"}
    assert sorted(stage.pods()) == ["m-0", "m-1"]
    await stage.once()
    assert sorted(stage.pods()) == ["m-0", "m-1"]
    await stage.registry.deregister("m-1", leaving)
    await stage.once()
    assert sorted(stage.pods()) == ["m-0"]
    assert await stage.once()
    assert (await stage.states())["m-0"] == "ready"
    assert [each for each in stage.events() if each.startswith("WorkerD")] == ["WorkerDeleted", "WorkerDraining"]


async def test_the_deadline_ends_a_drain(stage: Stage) -> None:
    """A worker whose streams do not end goes when its time is over, by an operator that knows nothing of its beginning."""
    stage.create(drain={"timeout": "90s"})
    await stage.once()
    for name in ("m-0", "m-1"):
        await stage.serve(name)
    stage.scale(0)
    await stage.once()
    await stage.clock.advance(89)
    await stage.once()
    assert len(stage.pods()) == 2
    await stage.clock.advance(1)
    await stage.once()
    assert stage.pods() == {}


async def test_two_operators_make_nothing_twice(stage: Stage) -> None:
    """Passes at the same time, as under two leaders, end with one Pod of each name."""
    stage.create(replicas=5)
    await asyncio.gather(*(stage.once() for _ in range(4)))
    assert sorted(stage.pods()) == [f"m-{index}" for index in range(5)]


async def test_a_pod_that_changed_since_is_not_deleted(stage: Stage) -> None:
    """A deletion that was decided on an older sight of a Pod is refused."""
    stage.create(replicas=1)
    await stage.once()
    meta = stage.pods()["m-0"]["metadata"]
    await stage.serve("m-0")
    path = deployments.pod_path(stage.namespace, "m-0")
    assert not await stage.client.delete(path, meta["uid"], meta["resourceVersion"])
    assert not await stage.client.delete(path, "another", stage.pods()["m-0"]["metadata"]["resourceVersion"])
    assert "m-0" in stage.pods()


async def test_what_blocks_a_worker_is_in_the_condition(stage: Stage) -> None:
    """A Pod that no node takes and one whose image is not there: the condition says both causes."""
    stage.create()
    await stage.once()
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    status = {
        "name": "worker",
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": waiting},
    }
    stage.pod_says("m-0", "Pending", containerStatuses=[status])
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    stage.server.merge(
        f"{deployments.pod_path(stage.namespace, 'm-1')}/status", {"status": {"conditions": [unscheduled]}}
    )
    await stage.once()
    assert stage.ready()["reason"] == "WorkersBlocked"
    assert "ImagePullBackOff: not found; Unschedulable: 0/3 nodes" in stage.ready()["message"]


async def test_an_engine_that_is_not_hosted_is_said(stage: Stage) -> None:
    """A deployment that this version cannot host makes no Pod, and its condition says what can be hosted."""
    document = support.valid()[3] | {"metadata": {"name": "m"}}
    assert stage.server.create(document, stage.namespace).is_success
    with pytest.raises(errors.TerminalError):
        await stage.once()
    assert stage.pods() == {}
    assert stage.ready()["reason"] == "Unsupported"
    assert "engine.kind vllm is not hosted" in stage.ready()["message"]


async def test_a_refused_pod_is_said(stage: Stage) -> None:
    """Where the API server refuses a worker's Pod, the condition has the server's own words."""
    stage.create(placement={"priorityClassName": "nobody-made-it"})
    with pytest.raises(errors.TerminalError):
        await stage.once()
    assert stage.ready()["reason"] == "CreationRefused"
    assert "no PriorityClass with name nobody-made-it was found" in stage.ready()["message"]


@pytest.mark.parametrize("resource", unbuilt.KINDS, ids=lambda each: each.__name__)
async def test_kinds_without_a_controller_say_so(stage: Stage, resource: Any) -> None:
    """They report Ready=False with reason NotYetImplemented, once."""
    document = next(each for each in support.valid() if each["kind"] == resource.__name__)
    document["metadata"] = {"name": stage.namespace[-40:]}
    assert stage.server.create(document, stage.namespace).is_success
    name = document["metadata"]["name"]
    assert await unbuilt.reconcile(stage.client, stage.clock, resource, stage.namespace, name)
    path = unbuilt.path_of(resource.KIND, stage.namespace, name)
    condition = stage.server.get(path).json()["status"]["conditions"][0]
    assert (condition["status"], condition["reason"]) == ("False", "NotYetImplemented")
    assert not await unbuilt.reconcile(stage.client, stage.clock, resource, stage.namespace, name)
    stage.server.delete(document, stage.namespace)


async def test_a_server_that_is_away_is_worth_another_try(access: api.Access) -> None:
    """No connection is a retryable error; a refusal for lack of rights is not."""
    away = kube.KubeClient(f"https://127.0.0.1:{processes.free_port()}", access.ssl_context(), "x")
    with pytest.raises(errors.RetryableError):
        await away.get("/api")
    await away.close()
    stranger = kube.KubeClient(access.server, access.ssl_context(), "x")
    with pytest.raises(errors.TerminalError, match="401"):
        await stranger.get("/api/v1/pods")
    await stranger.close()


async def test_the_loop_follows_changes(stage: Stage) -> None:
    """With the loop running, a deployment that is made, scaled and deleted leads to what is wanted by itself."""
    clock = clocks.SystemClock()
    reconciler = deployments.DeploymentReconciler(
        stage.client, stage.registry, clock, pods.WorkerHost("penstock:test", "redis")
    )
    running = asyncio.create_task(loop.Operator(stage.client, reconciler, clock).run())
    try:
        stage.create()
        await until(lambda: sorted(stage.pods()) == ["m-0", "m-1"])
        for name in ("m-0", "m-1"):
            await stage.serve(name)
        await until(lambda: stage.deployment().get("status", {}).get("workers") == "2/2")
        stage.scale(3)
        await until(lambda: len(stage.pods()) == 3)
        stage.scale(2)
        await until(lambda: sorted(stage.pods()) == ["m-0", "m-1"])
        stage.server.delete({"kind": "Pod", "metadata": {"name": "m-0"}}, stage.namespace)
        await until(lambda: len(stage.pods()) == 2 and "m-0" in stage.pods())
        assert not running.done()
    finally:
        await tasks.cancel([running])


async def test_a_deployment_that_is_gone_is_left_alone(stage: Stage) -> None:
    """A pass over a name that nothing has does nothing."""
    assert await stage.once()
    assert stage.pods() == {}

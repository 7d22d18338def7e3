"""Workers of two nodes through KubeRay's own operator, on nodes that kwok plays, beside a real operator process."""

from __future__ import annotations

import asyncio
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from operators import pods
from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, processes, registry
from penstock.runtime import redis as redis_link
from tests.cluster import api, binaries, control_plane, fakes, tools
from tests.support import charts
from tests.support.operator_process import OperatorProcess, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PROFILE = {
    "apiVersion": "penstock.dev/v1alpha1",
    "kind": "AcceleratorProfile",
    "metadata": {"name": "h100"},
    "spec": {"resourceName": "nvidia.com/gpu", "memory": "80Gi", "perNode": 8},
}


def model(replicas: int) -> dict[str, Any]:
    """A model that needs sixteen accelerators on two nodes."""
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "big"},
        "spec": {
            "model": {"name": "big", "source": {"hub": {"repo": "org/big", "revision": "abc"}}},
            "engine": {"kind": "vllm", "image": "vllm:test"},
            "accelerators": [{"profile": "h100"}],
            "parallelism": {"tensor": 8, "pipeline": 2, "nodes": 2},
            "replicas": replicas,
            "rollout": {"strategy": "InPlace", "maxUnavailable": 1},
        },
    }


class Stage:
    """What runs."""

    def __init__(self, kube: tools.Tools, redis_url: str, operator: OperatorProcess) -> None:
        self.kube, self._url, self.operator = kube, redis_url, operator

    def clusters(self) -> dict[str, Any]:
        """RayClusters by name."""
        return {each["metadata"]["name"]: each for each in self.kube.get("rayclusters")}

    def ranks(self, unit: str) -> dict[str, Any]:
        """Pods of a unit by their part."""
        found = self.kube.get("pods", "-l", f"{pods.WORKER_LABEL}={unit}")
        return {
            each["metadata"]["labels"]["ray.io/node-type"]: each
            for each in found
            if "deletionTimestamp" not in each["metadata"] and each["status"]["phase"] == "Running"
        }

    def ready_for_s(self, unit: str) -> float:
        """How long its head has been ready."""
        conditions = {each["type"]: each for each in self.ranks(unit)["head"]["status"]["conditions"]}
        return clocks.SystemClock().now_s() - pods.unix_s(conditions["Ready"]["lastTransitionTime"])

    def register(self, name: str) -> None:
        """What the agent on the head writes."""
        asyncio.run(self._with(lambda store: self._register(store, name)))

    def leave(self) -> list[str]:
        """Units that were told to drain have drained; their names."""
        return asyncio.run(self._with(self._leave))

    def forget(self, name: str) -> None:
        """The lease of a unit's agent ends with it."""
        asyncio.run(self._with(lambda store: self._forget(store, name)))

    async def _forget(self, store: registry.Registry, name: str) -> None:
        for each in await store.snapshot():
            if each.record.id == name:
                await store.deregister(name, each.record.incarnation)

    async def _with(self, work: Any) -> Any:
        link = redis_link.RedisLink(self._url, clocks.SystemClock())
        await link.start()
        try:
            return await work(registry.RedisRegistry(link.client, wire.Keys("default")))
        finally:
            await link.stop()

    async def _register(self, store: registry.Registry, name: str) -> None:
        record = types.WorkerRecord(
            id=name, incarnation=await store.next_incarnation(), deployment="big", model="big",
            endpoint=types.Endpoint(host="10.0.0.1", port=8000), state=types.WorkerState.READY, engine="vllm",
        )  # fmt: skip
        await store.register(record, 600.0)

    async def _leave(self, store: registry.Registry) -> list[str]:
        found = [each.record for each in await store.snapshot() if each.record.state is types.WorkerState.DRAINING]
        for record in found:
            await store.deregister(record.id, record.incarnation)
        return [record.id for record in found]


@pytest.fixture
def stage(tmp_path: pathlib.Path) -> Iterator[Stage]:
    """Two pairs of nodes with eight accelerators each, KubeRay's operator, and ours."""
    (tmp_path / "plane").mkdir()
    try:
        programs = binaries.find(os.environ)
        programs.need("kuberay-operator", "kuberay-crds", "kubectl")
        extras = control_plane.Extras(controllers=True, fake_nodes=True)
        plane = control_plane.ControlPlane(programs, tmp_path / "plane", extras)
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    redis = embedded_redis.EmbeddedRedis(tmp_path, clocks.SystemClock())
    asyncio.run(redis.start())
    plane.start()
    server = api.Api(plane.access)
    ray: subprocess.Popen[bytes] | None = None
    operator = OperatorProcess(tmp_path, plane.access, redis.url, "operator", LEASE__NAMESPACE="default")
    try:
        kube = tools.Tools(programs, plane.kubeconfig, tmp_path)
        kube.apply_folder(programs.path("kuberay-crds"))
        kube.apply_folder(charts.CHART / "crds")
        kube.wait("--for=condition=Established", "crd", "--all")
        until(lambda: kube.run("kubectl", "get", "md,accel,rayclusters").returncode == 0, what="the kinds")
        # KubeRay adds containers of its own: they have to pass as well.
        kube.kubectl("label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted")
        for number in range(4):
            assert server.create(fakes.node(f"node-{number}", gpus=8), "").is_success
        flags = ["-kubeconfig", str(plane.kubeconfig), "-enable-leader-election=false"]
        flags += ["-metrics-addr", f"127.0.0.1:{processes.free_port()}"]
        flags += ["-health-probe-bind-address", f"127.0.0.1:{processes.free_port()}"]
        with open(tmp_path / "kuberay.log", "wb") as log:
            argv = processes.die_with_parent([str(programs.path("kuberay-operator")), *flags])
            ray = subprocess.Popen(argv, stdout=log, stderr=log, cwd=tmp_path)
        operator.start()
        until(lambda: operator.leads, what="a leader")
        yield Stage(kube, redis.url, operator)
    finally:
        operator.kill()
        if ray is not None:
            ray.terminate()
            ray.wait(20)
        server.close()
        plane.stop()
        asyncio.run(redis.stop())


# On real nodes in `make test-cluster`, too.
@pytest.mark.long
def test_units_live_and_end_as_a_whole(stage: Stage) -> None:
    """Two units of two nodes come, become ready, lose a rank and are built anew, and one drains and goes."""
    kube = stage.kube
    kube.apply(PROFILE, model(2))
    until(lambda: set(stage.clusters()) == {"big-0", "big-1"}, 60, "two RayClusters")
    for name in ("big-0", "big-1"):
        until(lambda unit=name: set(stage.ranks(unit)) == {"head", "worker"}, 60, f"both nodes of {name}")
        stage.register(name)
    kube.wait("--for=condition=Ready", "md/big", timeout_s=30)
    addresses = [
        each["addresses"][0]
        for found in kube.get("endpointslices", "-l", "penstock.dev/deployment")
        for each in found.get("endpoints") or ()
    ]
    heads = [stage.ranks(name)["head"]["status"]["podIP"] for name in ("big-0", "big-1")]
    assert sorted(addresses) == sorted(heads)

    before = stage.clusters()["big-1"]["metadata"]["uid"]
    # A rank that is hardly younger than the engine counts as one that it began with: clocks differ.
    until(lambda: stage.ready_for_s("big-1") > 6, 20, "an engine that has served for a while")
    kube.kubectl("delete", "pod", stage.ranks("big-1")["worker"]["metadata"]["name"], "--force")
    until(lambda: before not in {each["metadata"]["uid"] for each in stage.clusters().values()}, 60, "the unit went")
    stage.forget("big-1")
    until(lambda: len(stage.clusters()) == 2, 60, "another unit in its place")
    [anew] = [name for name, each in stage.clusters().items() if each["metadata"]["uid"] != before and name != "big-0"]
    until(lambda: set(stage.ranks(anew)) == {"head", "worker"}, 60, "its nodes")
    stage.register(anew)
    kube.wait("--for=condition=Ready", "md/big", timeout_s=30)

    kube.kubectl("scale", "md/big", "--replicas=1")
    until(lambda: stage.leave() or len(stage.clusters()) == 1, 60, "a drain")
    until(lambda: len(stage.clusters()) == 1, 60, "one unit left")
    kube.kubectl("delete", "md/big")
    until(
        lambda: not stage.clusters() and not kube.get("endpointslices", "-l", "penstock.dev/deployment"),
        60,
        "nothing left",
    )


def test_a_namespace_with_a_deployment_goes(stage: Stage) -> None:
    """Nothing here holds up the deletion of a namespace, with the operator or without it."""
    kube = stage.kube
    for name, alive in (("first", True), ("second", False)):
        kube.kubectl("create", "namespace", name)
        space = kube.within(name)
        space.apply(PROFILE, model(1), model(1) | {"metadata": {"name": "other"}})
        until(lambda where=space: len(where.get("rayclusters")) == 2, 60, "two RayClusters")
        if not alive:
            stage.operator.kill()
        kube.kubectl("delete", "namespace", name, "--wait=false")
        until(lambda gone=name: kube.run("kubectl", "get", "namespace", gone).returncode != 0, 60, f"{name} went")


def test_pods_that_kuberay_may_not_make_are_named(stage: Stage) -> None:
    """A namespace that takes no folder of a node refuses KubeRay's Pods: the deployment says so, with what to do."""
    wanted = model(1)
    wanted["spec"]["model"]["source"] = {"path": "/models/big"}
    stage.kube.apply(PROFILE, wanted)

    def said() -> str:
        conditions = stage.kube.get("md", "big").get("status", {}).get("conditions", [])
        return next((each["message"] for each in conditions if each["type"] == "Ready"), "")

    until(lambda: "hostPath" in said(), 60, "the cause")
    assert "-> model.source.volume or model.cache.claimName" in said()

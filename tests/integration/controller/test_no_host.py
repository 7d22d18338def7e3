"""A controller without a host, as on Kubernetes: it shows what the operator wrote, and changes nothing."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from grpc import aio

from controller import main, settings
from penstock.api import types, wire
from penstock.api.proto import control_pb2, control_pb2_grpc
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, grpcs, redis, registry

KEYS = wire.Keys("models")


class Bench:
    """A controller, and the hands of an operator in Redis."""

    def __init__(self, server: embedded_redis.EmbeddedRedis, address: str) -> None:
        self.server = server
        self.link = redis.RedisLink(server.url, clocks.SystemClock(), name="hands")
        self.registry = registry.RedisRegistry(self.link.client, KEYS)
        self.address = address

    async def call(self, method: str, request: object) -> object:
        """A call of the API."""
        async with grpcs.channel(self.address, timeout_s=5.0) as channel:
            return await getattr(control_pb2_grpc.ControlStub(channel), method)(request)

    async def fleet(self) -> control_pb2.Fleet:
        """What the controller tells, once it leads."""
        async with asyncio.timeout(15):
            while True:
                got = await self.call("GetFleet", control_pb2.GetFleetRequest())
                if got.controller.leader and got.deployments and got.workers:
                    return got
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def bench(tmp_path: pathlib.Path) -> AsyncIterator[Bench]:
    """A controller with a deployment of three workers, of which one is there."""
    server = embedded_redis.EmbeddedRedis(tmp_path, clocks.SystemClock())
    await server.start()
    config = settings.ControllerSettings(redis_url=server.url, namespace="models", host="none", tick_s=0.05)
    life, grpc_server = main.build(config)
    await life.start()
    made = Bench(server, grpc_server.address)
    await made.link.start()
    deployment = types.ModelDeployment(name="tiny", model="tiny", pools=(types.Pool(replicas=3),))
    await made.link.client.hset(KEYS.deployments, "tiny", deployment.model_dump_json())
    record = types.WorkerRecord(
        id="tiny-0", incarnation=await made.registry.next_incarnation(), deployment="tiny", model="tiny",
        endpoint=types.Endpoint(host="10.0.0.1", port=8000), state=types.WorkerState.READY, engine="sim",
    )  # fmt: skip
    await made.registry.register(record, 600.0)
    yield made
    await made.link.stop()
    await life.stop()
    await server.stop()


async def test_it_shows_what_others_keep(bench: Bench) -> None:
    """Deployments and workers are told as they are; two that are missing are started by nobody, and nothing is degraded."""
    got = await bench.fleet()
    pool = got.deployments[0].pools[0]
    assert (pool.wanted, pool.ready, pool.starting) == (3, 1, 0)
    assert [worker.id for worker in got.workers] == ["tiny-0"]
    assert not got.degraded
    assert await bench.link.client.get(KEYS.controller_state) is None


async def test_a_deployment_that_is_gone_stays_gone(bench: Bench) -> None:
    """It does not write what it knew: the operator alone says which deployments there are."""
    await bench.fleet()
    await bench.link.client.delete(KEYS.deployments)
    async with asyncio.timeout(15):
        while (await bench.call("GetFleet", control_pb2.GetFleetRequest())).deployments:
            await asyncio.sleep(0.02)
    assert await bench.link.client.hlen(KEYS.deployments) == 0


async def test_without_redis_the_first_answer_says_so(bench: Bench) -> None:
    """A fleet that is told from memory is never told as healthy, also before the loop has noticed."""
    await bench.fleet()
    await bench.server.stop()
    got = await bench.call("GetFleet", control_pb2.GetFleetRequest())
    assert [each.component for each in got.degraded] == ["redis"]
    assert [worker.id for worker in got.workers] == ["tiny-0"]


async def test_what_nodes_draw_is_told_while_it_is_known(bench: Bench) -> None:
    """With its lease; of an agent that is silent, and without Redis, the nodes are told without watts."""
    drawn = {"gpus": 8, "gpu_w": 3_200.5, "cpu_w": 180.25}
    await bench.registry.put_node(types.NodeRecord(id="node-1", **drawn), 60.0)
    await bench.registry.put_node(types.NodeRecord(id="node-2", **drawn), 0.001)
    await bench.fleet()
    here, silent = (await bench.call("GetFleet", control_pb2.GetFleetRequest())).nodes
    assert (here.gpus, here.gpu_w, here.cpu_w, here.silent_s) == (8, 3_200.5, 180.25, 0) and here.lease_left_s > 50
    assert silent.silent_s > 0 and silent.gpus == 8 and not silent.HasField("gpu_w") and not silent.HasField("cpu_w")
    await bench.server.stop()
    left = (await bench.call("GetFleet", control_pb2.GetFleetRequest())).nodes
    assert [each.id for each in left] == ["node-1", "node-2"]
    for each in left:
        told = {name for name in ("lease_left_s", "silent_s", "gpu_w", "cpu_w") if each.HasField(name)}
        assert told == set(), each


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Scale", control_pb2.ScaleRequest(deployment="tiny", replicas=5)),
        ("Drain", control_pb2.DrainRequest(worker="tiny-0")),
        ("Apply", control_pb2.ApplyRequest(deployment_json='{"name": "other", "model": "m"}')),
    ],
)
async def test_it_refuses_to_change_the_fleet(bench: Bench, method: str, request_: object) -> None:
    """Scaling, draining and applying are refused with the command that does it."""
    await bench.fleet()
    with pytest.raises(aio.AioRpcError) as refused:
        await bench.call(method, request_)
    assert refused.value.code() is not grpc.StatusCode.UNAVAILABLE
    assert "kubectl scale modeldeployment/NAME" in refused.value.details()
    record = (await bench.registry.snapshot())[0].record
    assert record.state is types.WorkerState.READY

"""The controller's loop and API on a real Redis, with a host that only keeps names."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Callable

import grpc
import msgspec
import pytest
import pytest_asyncio
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controller import leader, loop, main, scrape, service, settings, store
from controller.hosts import memory
from controller.policy import fleet
from penstock import perf
from penstock.api import types, wire
from penstock.api.proto import control_pb2, control_pb2_grpc
from penstock.runtime import clock, embedded_redis, grpcs, redis, registry
from workers.adapters import stats

KEYS = wire.Keys("test")


class Bench:
    """A controller in parts, with workers that live as the test says."""

    def __init__(
        self, url: str, host: memory.MemoryHost, name: str = "a", lease_s: float = 1.0, workers: int = 2
    ) -> None:
        self.clock = clock.SystemClock()
        self.host = host
        self.link = redis.RedisLink(url, self.clock, name=name)
        self.registry = registry.RedisRegistry(self.link.client, KEYS)
        self.leader = leader.Leader(self.link.client, KEYS, self.clock, name, lease_s=lease_s)
        self.watcher = registry.RegistryWatcher(self.registry, self.link, self.clock, lambda *_: None)
        scraper = self.scraper = scrape.Scraper(self.clock, interval_s=1.0)
        config = settings.ControllerSettings(
            redis_url=url, namespace="test", host="process", lease_s=lease_s, tick_s=0.05, host_s=0.05
        )
        initial = types.ModelDeployment(
            name="tiny", model="tiny", pools=(types.Pool(replicas=workers, max_replicas=5),)
        )
        kept = store.Store(self.link.client, KEYS, self.leader, self.clock)
        self.loop = loop.Loop(
            config, self.leader, kept, self.watcher, self.registry, host, scraper, self.clock, (initial,)
        )
        control = service.Control(self.loop, self.leader, self.watcher, self.registry, self.link, scraper, KEYS, "test")
        self.server = grpcs.GrpcServer(
            [(service.SERVICE, lambda target: control_pb2_grpc.add_ControlServicer_to_server(control, target))]
        )

    async def start(self) -> None:
        """Starts everything."""
        for part in (self.link, self.watcher, self.loop, self.server):
            await part.start()

    async def stop(self) -> None:
        """Stops everything."""
        for part in (self.server, self.loop, self.watcher, self.link):
            await part.stop()

    async def run_worker(self, name: str) -> None:
        """The worker comes up as its host and its agent would tell."""
        self.host.hosting[name] = fleet.Hosting.RUNNING
        await self.registry.register(
            types.WorkerRecord(
                id=name, incarnation=await self.registry.next_incarnation(), deployment="tiny", model="tiny",
                endpoint=types.Endpoint(host="127.0.0.1", port=1), state=types.WorkerState.READY, engine="sim",
            ),
            600.0,
        )  # fmt: skip

    async def end_worker(self, name: str) -> None:
        """The worker has drained and ended."""
        self.host.hosting.pop(name, None)
        for item in await self.registry.snapshot():
            if item.record.id == name:
                await self.registry.deregister(name, item.record.incarnation)

    async def call(self, method: str, request: object) -> object:
        """A call of the API."""
        async with grpcs.channel(self.server.address, timeout_s=5.0) as channel:
            return await getattr(control_pb2_grpc.ControlStub(channel), method)(request)


async def until(check: Callable[[], object], deadline_s: float = 15.0) -> None:
    """Waits until `check` is true, or fails."""
    async with asyncio.timeout(deadline_s):
        while not check():
            await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def server(tmp_path: pathlib.Path) -> AsyncIterator[embedded_redis.EmbeddedRedis]:
    """A Redis."""
    server = embedded_redis.EmbeddedRedis(tmp_path, clock.SystemClock())
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def bench(server: embedded_redis.EmbeddedRedis) -> AsyncIterator[Bench]:
    """A controller with two ready workers."""
    bench = Bench(server.url, memory.MemoryHost())
    await bench.start()
    await until(lambda: len(bench.host.specs) == 2)
    for name in list(bench.host.specs):
        await bench.run_worker(name)
    await until(lambda: len(bench.watcher.workers) == 2)
    yield bench
    await bench.stop()


async def test_starts_what_is_wanted(bench: Bench) -> None:
    """The deployment's workers are started with the deployment's engine, once each."""
    assert sorted(bench.host.specs) == ["tiny-0", "tiny-1"]
    assert bench.host.specs["tiny-0"].model == "tiny" and bench.host.specs["tiny-0"].namespace == "test"
    got = await bench.call("GetFleet", control_pb2.GetFleetRequest())
    assert [(item.id, item.state) for item in got.workers] == [("tiny-0", "ready"), ("tiny-1", "ready")]
    pool = got.deployments[0].pools[0]
    assert (pool.wanted, pool.ready, pool.starting, pool.draining) == (2, 2, 0, 0)
    assert got.controller.leader and got.controller.id == "a" and not got.degraded
    assert not got.workers[0].HasField("running"), "a worker that cannot be read has unknown load"


async def test_cached_blocks_of_an_engine_that_does_not_count_them(bench: Bench) -> None:
    """They are those of the last report of its KV events; unknown where events were missed, or of another incarnation."""
    record = bench.watcher.workers["tiny-0"]

    async def report(incarnation: int, seq: int, blocks: int, approximate: bool = False) -> None:
        name = wire.endpoint_key(record.id, incarnation)
        made = wire.KvReport(wire.VERSION, name, seq, blocks, 16, 0, False, approximate)
        await bench.link.client.xadd(KEYS.kv_reports, {"d": msgspec.msgpack.encode(made)})

    async def shown() -> list[int | None]:
        got = await bench.call("GetFleet", control_pb2.GetFleetRequest())
        return [item.cached_blocks if item.HasField("cached_blocks") else None for item in got.workers]

    await report(record.incarnation + 100, 1, 99)
    assert await shown() == [None, None]
    await report(record.incarnation, 1, 7)
    await report(record.incarnation, 2, 12)
    assert await shown() == [12, None]
    assert await shown() == [12, None]
    await report(record.incarnation, 3, 13, approximate=True)
    assert await shown() == [None, None]


async def test_scale_up_and_down(bench: Bench) -> None:
    """Scale starts the missing; scale-in drains in the registry before the host is told; both are events."""
    got = await bench.call("Scale", control_pb2.ScaleRequest(deployment="tiny", replicas=3))
    assert (got.previous, got.replicas) == (2, 3)
    await until(lambda: "tiny-2" in bench.host.specs)
    await bench.run_worker("tiny-2")
    await until(lambda: "tiny-2" in bench.watcher.workers)
    await bench.call("Scale", control_pb2.ScaleRequest(deployment="tiny", replicas=2))
    await until(lambda: bench.host.stopped)
    [victim] = bench.host.stopped
    await until(lambda: bench.watcher.workers[victim].state is types.WorkerState.DRAINING)
    kinds = [entry[1][b"kind"] for entry in await bench.link.client.xrange(KEYS.events)]
    assert kinds.count(b"scale") == 2 and b"stop" in kinds and kinds.count(b"start") == 3


@pytest.mark.parametrize("replace", [True, False])
async def test_drain_takes_the_chosen_one(bench: Bench, replace: bool) -> None:
    """Drain stops the named worker; with `replace` another comes, without the wanted number falls."""
    await bench.call("Drain", control_pb2.DrainRequest(worker="tiny-0", replace=replace))
    await until(lambda: bench.host.stopped == ["tiny-0"])
    await bench.end_worker("tiny-0")
    await until(lambda: "tiny-0" not in bench.loop.memory.drains)
    pool = bench.loop.deployments["tiny"].pools[0]
    assert pool.replicas == (2 if replace else 1)
    assert ("tiny-2" in bench.host.specs) is replace
    assert bench.host.stopped == ["tiny-0"]


@pytest.mark.parametrize(
    ("method", "request_", "code", "part"),
    [
        ("Scale", control_pb2.ScaleRequest(deployment="nope", replicas=1), grpc.StatusCode.NOT_FOUND, "there are: tiny"),
        ("Scale", control_pb2.ScaleRequest(deployment="tiny", replicas=9), grpc.StatusCode.INVALID_ARGUMENT, "0 to 5"),
        ("Scale", control_pb2.ScaleRequest(deployment="tiny", role="x"), grpc.StatusCode.INVALID_ARGUMENT, "unified"),
        ("Drain", control_pb2.DrainRequest(worker="w-9"), grpc.StatusCode.NOT_FOUND, "tiny-0, tiny-1"),
        ("Apply", control_pb2.ApplyRequest(deployment_json='{"name": "x"}'), grpc.StatusCode.INVALID_ARGUMENT, "model"),
        ("Explain", control_pb2.ExplainRequest(request_id="abc"), grpc.StatusCode.NOT_FOUND, "abc"),
        ("Explain", control_pb2.ExplainRequest(request_id="a\nb"), grpc.StatusCode.INVALID_ARGUMENT, "request_id"),
    ],
)  # fmt: skip
async def test_wrong_calls_say_what_is_allowed(
    bench: Bench, method: str, request_: object, code: grpc.StatusCode, part: str
) -> None:
    """A refused call has a code and names what is wrong."""
    with pytest.raises(aio.AioRpcError) as caught:
        await bench.call(method, request_)
    assert caught.value.code() is code and part in (caught.value.details() or "")


async def test_apply_replaces_a_deployment(bench: Bench) -> None:
    """Apply creates another deployment, whose workers start; its generation rises with each change."""
    body = types.ModelDeployment(name="other", model="big", pools=(types.Pool(replicas=1),)).model_dump_json()
    got = await bench.call("Apply", control_pb2.ApplyRequest(deployment_json=body))
    assert got.generation == 1
    assert (await bench.call("Apply", control_pb2.ApplyRequest(deployment_json=body))).generation == 2
    await until(lambda: "other-0" in bench.host.specs)


async def test_health_and_events(bench: Bench) -> None:
    """Health says SERVING; the stream of events carries what happens from now on."""
    async with grpcs.channel(bench.server.address) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service.SERVICE))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stream = control_pb2_grpc.ControlStub(channel).WatchEvents(control_pb2.WatchEventsRequest(after="0-0"))
        kinds = []
        async with asyncio.timeout(10):
            async for event in stream:
                kinds.append(event.kind)
                if event.kind == "start":
                    break
        assert kinds[0] == "leader"


async def test_redis_restart_without_data_changes_no_worker(bench: Bench, server: embedded_redis.EmbeddedRedis) -> None:
    """Redis back empty: no worker is started or stopped, the deployment is written again, status says why meanwhile."""
    await bench.call("Scale", control_pb2.ScaleRequest(deployment="tiny", replicas=2))
    assert server.child is not None
    await server.child.stop(0.1)
    await until(lambda: "redis" in bench.loop.degraded.reasons)
    got = await bench.call("GetFleet", control_pb2.GetFleetRequest())
    assert (
        len(got.workers) == 2 and not got.workers[0].HasField("lease_left_s") and got.degraded[0].component == "redis"
    )
    server.child.spawn()
    await until(lambda: "redis" not in bench.loop.degraded.reasons and bench.leader.leading)
    for name in ("tiny-0", "tiny-1"):
        await bench.run_worker(name)
    async with asyncio.timeout(10):
        while list(await bench.link.client.hgetall(KEYS.deployments)) != [b"tiny"]:
            await asyncio.sleep(0.02)
    assert set(bench.watcher.workers) == {"tiny-0", "tiny-1"}
    assert sorted(bench.host.specs) == ["tiny-0", "tiny-1"] and bench.host.stopped == []


async def test_host_away_holds(bench: Bench) -> None:
    """A host that cannot be asked is a reason in the status and not a reason to start anything."""
    bench.host.available = False
    await bench.call("Scale", control_pb2.ScaleRequest(deployment="tiny", replicas=4))
    await until(lambda: "host" in bench.loop.degraded.reasons)
    assert len(bench.host.specs) == 2
    bench.host.available = True
    await until(lambda: len(bench.host.specs) == 4)
    assert "host" not in bench.loop.degraded.reasons


async def test_standby_takes_over_and_touches_no_worker(bench: Bench, server: embedded_redis.EmbeddedRedis) -> None:
    """A leader that vanishes is followed within its lease by the standby, which adopts every worker."""
    standby = Bench(server.url, bench.host, name="b")
    await standby.start()
    try:
        await until(lambda: standby.leader.holder == "a")
        with pytest.raises(aio.AioRpcError, match="does not lead; a does"):
            await standby.call("Scale", control_pb2.ScaleRequest(deployment="tiny", replicas=1))
        await bench.call("Scale", control_pb2.ScaleRequest(deployment="tiny", replicas=3))
        await until(lambda: "tiny-2" in bench.host.specs)
        await bench.run_worker("tiny-2")
        # As SIGKILL: nothing is released.
        from penstock.runtime import tasks

        assert bench.loop._task is not None
        await tasks.cancel([bench.loop._task])
        await until(lambda: standby.leader.leading, deadline_s=5.0)
        await until(lambda: standby.loop.deployments["tiny"].pools[0].replicas == 3)
        await standby.call("Scale", control_pb2.ScaleRequest(deployment="tiny", replicas=4))
        await until(lambda: "tiny-3" in bench.host.specs)
        assert bench.host.stopped == [] and len(bench.host.specs) == 4
    finally:
        await standby.stop()


def test_deployments_file_errors_name_the_file(tmp_path: pathlib.Path) -> None:
    """A wrong deployments file says which and what."""
    from penstock.runtime import errors

    path = tmp_path / "d.json"
    path.write_text('[{"name": "x", "model": "m", "polls": []}]')
    with pytest.raises(errors.SettingsError, match=r"d.json(.|\n)*polls"):
        main.read_deployments(path)


async def test_gateways_are_told_a_speed_that_a_worker_registered_wrongly(bench: Bench) -> None:
    """What its metrics tell takes its place in the registry, again where the worker registers anew; a right one stays."""
    truth = perf.load_profile("h200-llama3.1-8b-fp8")
    wrong, right = perf.speed_of(truth, 4.0), perf.speed_of(truth)
    speeds = {"tiny-0": wrong, "tiny-1": right}
    records = {name: each.model_copy(update={"speed": speeds[name]}) for name, each in bench.watcher.workers.items()}
    for record in records.values():
        await bench.registry.register(record, 600.0)
    await until(lambda: {name: each.speed for name, each in bench.watcher.workers.items()} == speeds)
    for number in range(60):
        uncached = 50 + 130 * number
        took_s = (truth.frontend_ms + truth.step.prefill_ms(uncached, 0)) / 1000
        idle = stats.EngineStats(
            running=0, waiting=0, prefix_queries_tokens_total=0, prefix_hits_tokens_total=0, ttft_s_sum=0.0,
            ttft_count=0,
        )  # fmt: skip
        begun = dataclasses.replace(idle, prefix_queries_tokens_total=uncached, ttft_s_sum=took_s, ttft_count=1)
        for name, record in records.items():
            bench.scraper.calibrations.take(name, record.incarnation, idle, begun)

    def told() -> bool:
        speed = bench.watcher.workers["tiny-0"].speed
        return speed is not None and abs(speed.ms_per_token / right.ms_per_token - 1) < 0.1

    await until(told)
    cursor = (await bench.registry.snapshot_at()).cursor
    await bench.registry.register(records["tiny-0"], 600.0)
    said: list[types.EngineSpeed | None] = []
    async with asyncio.timeout(10):
        while len(said) < 2:
            changes, cursor = await bench.registry.changes(cursor, 1.0)
            said += [each.record.speed for each in changes if each.record is not None]
    await until(told)
    assert said == [wrong, bench.watcher.workers["tiny-0"].speed]
    assert bench.watcher.workers["tiny-0"].state is types.WorkerState.READY
    assert bench.watcher.workers["tiny-1"].speed == right

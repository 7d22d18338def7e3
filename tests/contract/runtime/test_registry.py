"""The registry's contract, run on Redis and on the in-memory twin."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from penstock.api import types, wire
from penstock.runtime import clock, embedded_redis, errors, redis, registry
from tests.support import redis_nodes

_NUMBERS = itertools.count()
_NODE_KEPT_S = 1.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One embedded Redis for the module."""
    server = embedded_redis.EmbeddedRedis(pathlib.Path(tmp_path_factory.mktemp("redis")), clock.SystemClock())
    await server.start()
    yield server.url
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One Redis Cluster of three shards for the module."""
    async with redis_nodes.running(pathlib.Path(tmp_path_factory.mktemp("cluster"))) as cluster:
        yield cluster.url


@pytest_asyncio.fixture(params=["redis", "cluster", "memory"])
async def reg(request: pytest.FixtureRequest, redis_url: str, cluster_url: str) -> AsyncIterator[registry.Registry]:
    """An empty registry of each kind."""
    if request.param == "memory":
        yield registry.MemoryRegistry(clock.SystemClock(), _NODE_KEPT_S)
        return
    link = redis.RedisLink(redis_url if request.param == "redis" else cluster_url, clock.SystemClock())
    await link.start()
    # A fleet of its own for each test, so that a cluster's shards all have some.
    yield registry.RedisRegistry(link.client, wire.Keys(f"test-{next(_NUMBERS)}"), _NODE_KEPT_S)
    await link.stop()


def worker(name: str = "w-0", incarnation: int = 5, **changes: object) -> types.WorkerRecord:
    """A record with the given changes."""
    record = types.WorkerRecord(
        id=name,
        incarnation=incarnation,
        deployment="tiny",
        model="tiny",
        endpoint=types.Endpoint(host="127.0.0.1", port=9000),
        state=types.WorkerState.READY,
        engine="sim",
        adapters=(),
    )
    return record.model_copy(update=changes)


def gateway(name: str = "gw-0") -> types.GatewayRecord:
    """A gateway's record."""
    return types.GatewayRecord(id=name, host="127.0.0.1", port=1, admin_port=2, pid=3)


async def until(check: Callable[[], object], deadline_s: float = 10.0) -> None:
    """Waits until `check` is true, or fails."""
    async with asyncio.timeout(deadline_s):
        while not check():
            await asyncio.sleep(0.01)


async def states(reg: registry.Registry) -> dict[str, str]:
    """Id to state of all that is registered."""
    return {item.record.id: item.record.state for item in await reg.snapshot()}


async def test_incarnations_rise(reg: registry.Registry) -> None:
    """Each incarnation is above the last, and near the clock in ms so that it survives an empty restart."""
    numbers = [await reg.next_incarnation() for _ in range(5)]
    assert numbers == sorted(set(numbers)) and numbers[0] > 1_700_000_000_000


async def test_record_comes_back_as_it_was(reg: registry.Registry) -> None:
    """Every field survives, with the lease's remainder."""
    record = worker(
        capacity=types.Capacity(kv_blocks=10, block_size_tokens=16),
        speed=types.EngineSpeed(base_ms=1.0, ms_per_token=0.25),
        incarnation=1_790_000_000_123,
    )
    await reg.register(record, 3.0)
    [got] = await reg.snapshot()
    assert got.record == record
    assert got.lease_left_s is not None and 2.0 < got.lease_left_s <= 3.0


async def test_older_incarnation_is_fenced(reg: registry.Registry) -> None:
    """A newer incarnation replaces an older one, never the other way; the older cannot renew, change or remove it."""
    await reg.register(worker(incarnation=5), 3.0)
    await reg.register(worker(incarnation=6, pid=6), 3.0)
    with pytest.raises(errors.FencedError, match="w-0: incarnation 5 is older than 6"):
        await reg.register(worker(incarnation=5), 3.0)
    assert not await reg.renew("w-0", 5, 3.0)
    assert not await reg.set_state("w-0", 5, types.WorkerState.DRAINING)
    assert not await reg.deregister("w-0", 5)
    [got] = await reg.snapshot()
    assert got.record == worker(incarnation=6, pid=6)


async def test_renew_extends_the_lease(reg: registry.Registry) -> None:
    """A renewal sets the whole lease anew; one for an id that is not there says so."""
    await reg.register(worker(), 1.0)
    assert await reg.renew("w-0", 5, 60.0)
    [got] = await reg.snapshot()
    assert got.lease_left_s is not None and got.lease_left_s > 50
    assert not await reg.renew("w-1", 5, 60.0)


async def test_renew_tells_the_state(reg: registry.Registry) -> None:
    """A worker learns by its renewal that another has set it to draining."""
    await reg.register(worker(), 3.0)
    assert await reg.renew("w-0", 5, 3.0) is types.WorkerState.READY
    await reg.set_state("w-0", None, types.WorkerState.DRAINING)
    assert await reg.renew("w-0", 5, 3.0) is types.WorkerState.DRAINING


async def test_drain_is_not_taken_back(reg: registry.Registry) -> None:
    """Once draining, a worker stays so; setting it again is fine."""
    await reg.register(worker(state=types.WorkerState.STARTING), 3.0)
    assert await reg.set_state("w-0", 5, types.WorkerState.READY)
    assert await reg.set_state("w-0", None, types.WorkerState.DRAINING)
    assert not await reg.set_state("w-0", 5, types.WorkerState.READY)
    assert await reg.set_state("w-0", 5, types.WorkerState.DRAINING)
    assert await states(reg) == {"w-0": "draining"}
    assert not await reg.set_state("w-9", None, types.WorkerState.DRAINING)


async def test_a_speed_is_changed_for_one_incarnation(reg: registry.Registry) -> None:
    """What was learned of an engine is told once, and not of another that has its name now; the rest stays."""
    await reg.register(worker(), 3.0)
    cursor = (await reg.snapshot_at()).cursor
    speed = types.EngineSpeed(ms_per_token=0.5)
    assert await reg.set_speed("w-0", 5, speed) and await reg.set_speed("w-0", 5, speed)
    changes, _ = await reg.changes(cursor, 0.2)
    assert [(each.op, each.record) for each in changes] == [("put", worker(speed=speed))]
    assert not await reg.set_speed("w-0", 4, speed)
    assert not await reg.set_speed("w-9", 5, speed)


async def test_expired_worker_is_removed_and_logged(reg: registry.Registry) -> None:
    """A lease that ended is removed by the next sweep, others stay, and the log tells."""
    cursor = (await reg.snapshot_at()).cursor
    await reg.expire()
    await reg.register(worker("w-0"), 0.05)
    await reg.register(worker("w-1"), 60.0)
    gone: list[str] = []
    async with asyncio.timeout(5):
        while not gone:
            gone = await reg.expire()
            await asyncio.sleep(0.02)
    assert gone == ["w-0"] and await states(reg) == {"w-1": "ready"}
    changes, _ = await reg.changes(cursor, 0.1)
    assert [(c.op, c.worker_id) for c in changes] == [("put", "w-0"), ("put", "w-1"), ("expire", "w-0")]


async def test_first_sweep_after_a_gap_removes_nothing(reg: registry.Registry) -> None:
    """Where nobody swept for long, holders could not renew either: ended leases are extended, not removed."""
    await reg.register(worker(), 0.01)
    await until_async_ended(reg)
    assert await reg.expire() == []
    [got] = await reg.snapshot()
    assert got.lease_left_s is not None and got.lease_left_s > 4.0


async def until_async_ended(reg: registry.Registry) -> None:
    """Waits until the one worker's lease is over."""
    async with asyncio.timeout(5):
        while (await reg.snapshot())[0].lease_left_s:
            await asyncio.sleep(0.01)


async def test_deregister_is_logged(reg: registry.Registry) -> None:
    """The holder can leave; the log tells; a second time is False."""
    await reg.register(worker(), 3.0)
    cursor = (await reg.snapshot_at()).cursor
    assert await reg.deregister("w-0", 5) and not await reg.deregister("w-0", 5)
    changes, cursor = await reg.changes(cursor, 0.1)
    assert changes == [registry.Change("del", "w-0")]
    assert await reg.changes(cursor, 0.02) == ([], cursor)


async def test_changes_wake_a_waiting_reader(reg: registry.Registry) -> None:
    """A reader that waits gets the change without polling, with the record."""
    cursor = (await reg.snapshot_at()).cursor
    reader = asyncio.create_task(reg.changes(cursor, 1.5))
    await asyncio.sleep(0)
    await reg.register(worker(), 3.0)
    changes, _ = await reader
    assert changes == [registry.Change("put", "w-0", worker())]


async def test_same_record_again_is_no_change(reg: registry.Registry) -> None:
    """Registering what is there already renews, and adds nothing to the log."""
    await reg.register(worker(), 3.0)
    cursor = (await reg.snapshot_at()).cursor
    await reg.register(worker(), 3.0)
    assert (await reg.changes(cursor, 0.02))[0] == []


async def test_gateways_live_under_leases(reg: registry.Registry) -> None:
    """A gateway is listed while its lease lasts, and can leave."""
    await reg.put_gateway(gateway("gw-0"), 60.0)
    await reg.put_gateway(gateway("gw-1"), 0.02)
    async with asyncio.timeout(5):
        while len(await reg.gateways()) > 1:
            await asyncio.sleep(0.01)
    [got] = await reg.gateways()
    assert got.record == gateway("gw-0") and got.lease_left_s is not None and got.lease_left_s > 50
    await reg.drop_gateway("gw-0")
    assert await reg.gateways() == []


async def test_watcher_follows(reg: registry.Registry) -> None:
    """A watcher sees registrations, state changes and removals, with the ids that went."""
    seen: list[tuple[dict[str, str], list[str]]] = []
    watcher = registry.RegistryWatcher(
        reg,
        None,
        clock.SystemClock(),
        lambda all_, gone: seen.append(({k: v.state for k, v in all_.items()}, gone)),
    )
    await reg.register(worker("w-0"), 60.0)
    await watcher.start()
    try:
        assert watcher.synced and watcher.stale_s is None and seen == [({"w-0": "ready"}, [])]
        await reg.register(worker("w-1"), 60.0)
        await until(lambda: len(seen) == 2)
        await reg.set_state("w-1", None, types.WorkerState.DRAINING)
        await until(lambda: len(seen) == 3)
        await reg.deregister("w-1", 5)
        await until(lambda: len(seen) == 4)
        assert seen[1:] == [
            ({"w-0": "ready", "w-1": "ready"}, []),
            ({"w-0": "ready", "w-1": "draining"}, []),
            ({"w-0": "ready"}, ["w-1"]),
        ]
    finally:
        await watcher.stop()


async def test_watcher_expires_the_dead(reg: registry.Registry) -> None:
    """A worker that does not renew is gone from the watcher after its lease, without any other process."""
    watcher = registry.RegistryWatcher(reg, None, clock.SystemClock(), lambda *_: None)
    await watcher.start()
    try:
        await reg.expire()
        await reg.register(worker("w-0"), 0.3)
        await until(lambda: "w-0" in watcher.workers)
        await until(lambda: "w-0" not in watcher.workers)
    finally:
        await watcher.stop()


async def test_nodes_are_shown_until_they_were_silent_for_long(reg: registry.Registry) -> None:
    """One that does not renew is shown with the time since, then forgotten; one whose agent ended is gone at once."""
    first = types.NodeRecord(id="node-1.example", gpus=8, gpu_w=3_200.5, degraded=("meter-failed: x",))
    await reg.put_node(first, 60.0)
    await reg.put_node(types.NodeRecord(id="node-2"), 0.02)
    await reg.put_node(types.NodeRecord(id="node-3"), 60.0)
    await reg.drop_node("node-3")
    seen = set()
    async with asyncio.timeout(10):
        while len(found := await reg.nodes()) > 1:
            seen.add(found[1].silent_s > 0)
            assert (found[1].record.id, found[1].silent_s <= _NODE_KEPT_S) == ("node-2", True)
            assert not (found[1].silent_s and found[1].lease_left_s)
            await asyncio.sleep(0.01)
    assert True in seen
    await reg.put_node(first, 60.0)
    [left] = await reg.nodes()
    assert left.record == first and left.lease_left_s > 50 and left.silent_s == 0

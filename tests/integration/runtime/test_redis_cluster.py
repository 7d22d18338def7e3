"""A link to a real Redis Cluster: failovers, slots that move, shards that are away."""

from __future__ import annotations

import asyncio
import pathlib
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, errors, redis, redis_urls, registry
from tests.support import redis_nodes

KEYS = wire.Keys("test")


@pytest_asyncio.fixture
async def cluster(tmp_path: pathlib.Path) -> AsyncIterator[redis_nodes.Cluster]:
    """Three shards."""
    async with redis_nodes.running(tmp_path) as made:
        yield made


@pytest_asyncio.fixture
async def replicated(tmp_path: pathlib.Path) -> AsyncIterator[redis_nodes.Cluster]:
    """Three shards with a replica each."""
    async with redis_nodes.running(tmp_path, replicas=True) as made:
        yield made


class Linked:
    """A link with a registry on it."""

    def __init__(self, url: str) -> None:
        self.link = redis.RedisLink(url, clocks.SystemClock(), ping_interval_s=0.1)
        self.store = registry.RedisRegistry(self.link.client, KEYS)

    async def __aenter__(self) -> Linked:
        await self.link.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.link.stop()

    async def register(self, name: str) -> types.WorkerRecord:
        """A worker with a long lease."""
        record = types.WorkerRecord(
            id=name, incarnation=await self.store.next_incarnation(), deployment="d", model="m",
            endpoint=types.Endpoint(host="127.0.0.1", port=1), state=types.WorkerState.READY, engine="sim",
        )  # fmt: skip
        await self.store.register(record, 600.0)
        return record

    async def names(self) -> list[str]:
        """Who is registered."""
        return [each.record.id for each in await self.store.snapshot()]


async def test_a_link_follows_a_failover(replicated: redis_nodes.Cluster) -> None:
    """The fleet's primary is killed: its replica is written to, with the data that was there, after some retryable errors.

    Back as a replica, it sends on whoever asks it first.
    """
    async with Linked(replicated.url) as linked:
        before = await linked.register("w-0")
        at = replicated.owner("test")
        await redis_nodes.until(lambda: _has(replicated.replicas[replicated.primaries.index(at)], KEYS.workers))
        at.signal(signal.SIGKILL)
        failed = 0
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await linked.store.next_incarnation() > before.incarnation
                    break
                except errors.RetryableError:
                    failed += 1
                    await asyncio.sleep(0.05)
        assert failed
        assert await linked.names() == ["w-0"]
        await redis_nodes.until(lambda: _is_up(linked.link))
        assert linked.link.connections == 2
        at.start()
        await redis_nodes.until(at.serves)
        async with Linked(f"redis+cluster://:{redis_nodes.PASSWORD}@127.0.0.1:{at.port}") as late:
            assert await late.names() == ["w-0"]


async def test_other_shards_may_be_away(cluster: redis_nodes.Cluster) -> None:
    """With another shard's primary killed nothing fails, and a link that begins then finds its own."""
    async with Linked(cluster.url) as linked:
        await linked.register("w-0")
        other = next(node for node in cluster.primaries if node is not cluster.owner("test"))
        other.signal(signal.SIGKILL)
        await linked.register("w-1")
        async with Linked(cluster.url) as late:
            assert await late.names() == ["w-0", "w-1"]


async def test_a_slot_moves_under_a_link(cluster: redis_nodes.Cluster) -> None:
    """To a node without slots before: keys on either side are found, scripts over both wait, and nothing is lost."""
    async with Linked(cluster.url) as linked:
        await linked.register("w-0")
        source, target = cluster.owner("test"), await cluster.add()
        move = redis_nodes.Move(redis_nodes.slot_of("test"), source, target, cluster.primaries)
        # A reader that waits while it happens.
        cursor = (await linked.store.snapshot_at()).cursor
        reading = asyncio.create_task(_next_change(linked.store, cursor))
        await move.begin()
        await move.take(KEYS.workers)
        assert await linked.link.client.hget(KEYS.workers, "w-0")
        with pytest.raises(errors.RetryableError, match="register|TRYAGAIN"):
            await linked.register("w-1")
        assert await linked.store.next_incarnation()
        await move.take_all()
        await linked.register("w-2")
        await move.end()
        await linked.register("w-3")
        assert await linked.names() == ["w-0", "w-2", "w-3"]
        assert await _has(target, KEYS.workers) and not await move.keys()
        async with asyncio.timeout(10):
            assert (await reading).worker_id == "w-2"
        assert linked.link.connections == 1


async def test_what_is_no_cluster_is_refused(tmp_path: pathlib.Path) -> None:
    """A Redis without cluster mode under a cluster's URL, and a cluster under a plain one: both name what is wrong."""
    server = embedded_redis.EmbeddedRedis(tmp_path / "single", clocks.SystemClock())
    await server.start()
    link = redis.RedisLink(server.url.replace("redis://", "redis+cluster://"), clocks.SystemClock())
    with pytest.raises(errors.TerminalError, match="cluster support disabled"):
        await link.start()
    await link.stop()
    await server.stop()


async def test_a_cluster_under_a_plain_url_is_named(cluster: redis_nodes.Cluster) -> None:
    """The message says which URL it wants."""
    wrong = next(node for node in cluster.primaries if node is not cluster.owner("test"))
    async with Linked(f"redis://:{redis_nodes.PASSWORD}@127.0.0.1:{wrong.port}/0") as linked:
        with pytest.raises(errors.TerminalError, match=r"redis\+cluster://"):
            await linked.store.next_incarnation()


async def test_a_wrong_password_is_no_reason_to_try_again(cluster: redis_nodes.Cluster) -> None:
    """The start ends at once, and the password is in no message."""
    link = redis.RedisLink(cluster.url.replace(redis_nodes.PASSWORD, "wrong-one"), clocks.SystemClock())
    with pytest.raises(errors.TerminalError) as refused:
        await link.start()
    assert "wrong-one" not in str(refused.value) + link.url_masked
    await link.stop()


@pytest.mark.parametrize(
    "url", ["redis+cluster://", "redis+cluster://:x@", "redis+cluster://a:1/3", "redis+cluster://a,:2"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    """The message says which URLs there are."""
    with pytest.raises(errors.TerminalError, match=r"allowed: redis://.*rediss\+cluster://"):
        redis.RedisLink(url, clocks.SystemClock())


def test_what_a_cluster_url_says() -> None:
    """Users, passwords, TLS and further parameters reach the connections."""
    made = redis_urls.client("rediss+cluster://user:p%40ss@a:1,[::1],a:1/0?ssl_ca_certs=/ca.pem", socket_timeout=2.0)
    kwargs = made.connection_pool.connection_kwargs
    assert (kwargs["username"], kwargs["password"], kwargs["ssl_ca_certs"]) == ("user", "p@ss", "/ca.pem")
    assert made.connection_pool.connection_class.__name__ == "SSLConnection"
    assert (kwargs["host"], kwargs["port"]) == ("a", 1)


async def _next_change(store: registry.RedisRegistry, cursor: str) -> registry.Change:
    """Follows as a watcher does."""
    while True:
        try:
            changes, cursor = await store.changes(cursor, 0.5)
        except errors.RetryableError:
            await asyncio.sleep(0.05)
            continue
        if changes:
            return changes[0]


async def _has(node: redis_nodes.Node, key: str) -> bool:
    """Whether a node itself has a key."""
    found = await node.client.execute_command("CLUSTER", "GETKEYSINSLOT", redis_nodes.slot_of("test"), 100)
    return key in found


async def _is_up(link: redis.RedisLink) -> bool:
    return link.up

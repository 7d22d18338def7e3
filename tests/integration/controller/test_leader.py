"""Leadership on a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from controller import leader
from penstock.api import wire
from penstock.runtime import clock, embedded_redis, errors, redis
from tests.support import redis_nodes

KEYS = wire.Keys("test")


@pytest_asyncio.fixture(params=["redis", "cluster"])
async def link(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> AsyncIterator[redis.RedisLink]:
    """A link to an empty Redis, or Redis Cluster."""
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "redis":
            server = embedded_redis.EmbeddedRedis(tmp_path, clock.SystemClock())
            await server.start()
            stack.push_async_callback(server.stop)
            url = server.url
        else:
            url = (await stack.enter_async_context(redis_nodes.running(tmp_path))).url
        link = redis.RedisLink(url, clock.SystemClock())
        await link.start()
        yield link
        await link.stop()


def bid(link: redis.RedisLink, name: str, lease_s: float = 60.0) -> leader.Leader:
    """A candidate."""
    return leader.Leader(link.client, KEYS, clock.SystemClock(), name, lease_s=lease_s)


async def test_one_leads(link: redis.RedisLink) -> None:
    """The first to ask leads; the second learns who does; asking again changes nothing."""
    first, second = bid(link, "a"), bid(link, "b")
    assert await first.tick() and not await second.tick()
    assert (second.holder, second.epoch) == ("a", first.epoch)
    epoch = first.epoch
    assert await first.tick() and first.epoch == epoch


async def test_standby_takes_over_within_the_lease_with_a_higher_epoch(link: redis.RedisLink) -> None:
    """A leader that stops renewing is followed by the standby; its writes are refused from then on."""
    first, second = bid(link, "a", lease_s=0.3), bid(link, "b", lease_s=60.0)
    await first.tick()
    async with asyncio.timeout(5):
        while not await second.tick():
            await asyncio.sleep(0.02)
    assert second.epoch > first.epoch and not first.leading
    with pytest.raises(errors.FencedError):
        await first.put_field(KEYS.deployments, "x", "old")
    with pytest.raises(errors.FencedError):
        await first.put(KEYS.controller_state, "old")
    await second.put_field(KEYS.deployments, "x", "new")
    assert await link.client.hget(KEYS.deployments, "x") == b"new"


async def test_release_hands_over_at_once(link: redis.RedisLink) -> None:
    """A leader that leaves need not be waited for; a follower's release takes nothing away."""
    first, second = bid(link, "a"), bid(link, "b")
    await first.tick()
    await second.release()
    assert await first.tick()
    await first.release()
    assert await second.tick() and not first.leading


async def test_epoch_rises_over_an_empty_restart(link: redis.RedisLink) -> None:
    """A Redis without memory gives no epoch that was there before."""
    first = bid(link, "a")
    await first.tick()
    epoch = first.epoch
    await asyncio.sleep(0.002)
    await link.client.unlink(KEYS.leader, KEYS.leader_epoch)
    assert await first.tick() and first.epoch > epoch

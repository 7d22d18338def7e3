"""A Redis that Sentinels name: a link follows a failover."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, redis, redis_urls, registry
from tests.support import sentinels


@pytest_asyncio.fixture
async def group(tmp_path: pathlib.Path) -> AsyncIterator[sentinels.Group]:
    """One that is ready to fail over."""
    made = sentinels.Group(tmp_path)
    made.start()
    await made.until_replicated()
    yield made
    made.stop()


async def test_a_link_follows_a_failover(group: sentinels.Group) -> None:
    """The master is killed: the same link writes to the new one, with the data that was there, after some retryable errors."""
    link = redis.RedisLink(group.url, clocks.SystemClock())
    await link.start()
    store = registry.RedisRegistry(link.client, wire.Keys("test"))
    record = types.WorkerRecord(
        id="w-0", incarnation=await store.next_incarnation(), deployment="d", model="m",
        endpoint=types.Endpoint(host="127.0.0.1", port=1), state=types.WorkerState.READY, engine="sim",
    )  # fmt: skip
    await store.register(record, 600.0)
    await link.client.wait(1, 2000)
    group.kill("first")
    failed = 0
    async with asyncio.timeout(30):
        while True:
            try:
                assert await store.next_incarnation() > record.incarnation
                break
            except errors.RetryableError:
                failed += 1
                await asyncio.sleep(0.05)
    assert failed
    assert [each.record.id for each in await store.snapshot()] == ["w-0"]
    async with asyncio.timeout(15):
        while not link.up:
            await asyncio.sleep(0.05)
    await link.stop()


async def test_a_wrong_password_is_no_reason_to_try_again(group: sentinels.Group) -> None:
    """Sentinels that refuse the password end the start; nothing of it is shown."""
    url = group.url.replace(sentinels.PASSWORD, "wrong")
    link = redis.RedisLink(url, clocks.SystemClock(), required_within_s=2.0)
    with pytest.raises(errors.PenstockError) as refused:
        await link.start()
    assert "wrong" not in str(refused.value)
    assert "wrong" not in logs.mask_urls(url)
    await link.stop()


@pytest.mark.parametrize(
    "url", ["redis+sentinel://host:1", "redis+sentinel:///service", "redis+sentinel://:x@/service", "cluster://host"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    """The message says which URLs there are."""
    with pytest.raises(errors.TerminalError, match=r"allowed: redis://.*redis\+sentinel://"):
        redis.RedisLink(url, clocks.SystemClock())


def test_what_a_sentinel_url_says() -> None:
    """Addresses, service, database, TLS and further parameters reach the connections; Sentinels may be without password."""
    url = "rediss+sentinel://user:p%40ss@a:1,[::1],c/fleet/3?ssl_ca_certs=/ca.pem&sentinel_auth=off"
    pool = redis_urls.client(url, socket_timeout=2.0).connection_pool
    assert pool.service_name == "fleet"
    kwargs = pool.connection_kwargs
    assert (kwargs["username"], kwargs["password"], kwargs["db"]) == ("user", "p@ss", 3)
    assert kwargs["ssl_ca_certs"] == "/ca.pem"
    sentinels = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in sentinels] == [("a", 1), ("::1", 26379), ("c", 26379)]
    assert all(each.get("password") is None and each["ssl_ca_certs"] == "/ca.pem" for each in sentinels)

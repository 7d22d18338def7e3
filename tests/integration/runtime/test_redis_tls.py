"""Links with TLS: one Redis, one that Sentinels name, and a cluster whose nodes are told of by their ports with TLS."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from penstock.api import wire
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, errors, processes, redis, registry
from tests.support import certificates, redis_nodes, tls_front


class Secured:
    """A Redis behind TLS, and the CA of its certificate."""

    def __init__(self, server: embedded_redis.EmbeddedRedis, front: tls_front.TlsFront, folder: pathlib.Path) -> None:
        self.front = front
        self._credentials = server.url.partition("://")[2].partition("@")[0]
        self._folder = folder

    def url(self, host: str = "127.0.0.1", **parameters: object) -> str:
        """For a link."""
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"rediss://{self._credentials}@{host}:{self.front.port}/0?{query}"


@pytest.fixture
def authority(tmp_path: pathlib.Path) -> certificates.Authority:
    """A CA of our own."""
    folder = tmp_path / "ca"
    folder.mkdir()
    return certificates.Authority(folder)


@pytest_asyncio.fixture
async def secured(tmp_path: pathlib.Path, authority: certificates.Authority) -> AsyncIterator[Secured]:
    """Its certificate is for 127.0.0.1, and it wants one of its clients."""
    server = embedded_redis.EmbeddedRedis(tmp_path / "redis", clocks.SystemClock())
    await server.start()
    front = tls_front.TlsFront(authority.issue("redis", "127.0.0.1"), authority)
    front.target = server.port
    await front.start()
    yield Secured(server, front, tmp_path)
    await front.stop()
    await server.stop()


async def test_a_link_with_tls(secured: Secured, authority: certificates.Authority) -> None:
    """With the CA and a certificate of its own, both named in the URL, a link writes."""
    mine = authority.issue("client")
    url = secured.url(ssl_ca_certs=authority.file, ssl_certfile=mine.cert, ssl_keyfile=mine.key)
    link = redis.RedisLink(url, clocks.SystemClock())
    await link.start()
    assert await registry.RedisRegistry(link.client, wire.Keys("test")).next_incarnation()
    await link.stop()


async def test_a_server_is_checked(secured: Secured, authority: certificates.Authority, tmp_path: pathlib.Path) -> None:
    """No start with another CA, with the system's, under another name, without the wanted certificate, or without TLS."""
    (tmp_path / "other").mkdir()
    other, mine = certificates.Authority(tmp_path / "other", "another CA"), authority.issue("client")
    both = {"ssl_certfile": mine.cert, "ssl_keyfile": mine.key}
    wrong = [
        secured.url(ssl_ca_certs=other.file, **both),
        secured.url(**both),
        secured.url("localhost", ssl_ca_certs=authority.file, **both),
        secured.url(ssl_ca_certs=authority.file),
        secured.url().replace("rediss://", "redis://"),
    ]
    for url in wrong:
        link = redis.RedisLink(url, clocks.SystemClock(), required_within_s=0.1, timeout_s=0.5)
        with pytest.raises(errors.PenstockError):
            await link.start()
        await link.stop()


async def test_sentinels_with_tls(tmp_path: pathlib.Path, authority: certificates.Authority) -> None:
    """Sentinel and the master that it names are both spoken to with TLS, and checked."""
    server = embedded_redis.EmbeddedRedis(tmp_path / "redis", clocks.SystemClock())
    await server.start()
    password = server.url.partition("://:")[2].partition("@")[0]
    # The Sentinel itself watches the master plainly, by the port that it tells clients.
    master = tls_front.TlsFront(authority.issue("redis"), plainly=True)
    watch = tls_front.TlsFront(authority.issue("sentinel"))
    master.target, watch.target = server.port, processes.free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"bind 127.0.0.1\nport {watch.target}\ndir {tmp_path}\nrequirepass {password}\n"
        f"sentinel monitor fleet 127.0.0.1 {master.port} 1\nsentinel auth-pass fleet {password}\n"
    )
    argv = [str(embedded_redis.find_binary()), str(config), "--sentinel"]
    sentinel = processes.Child("sentinel", argv, log_path=tmp_path / "sentinel.log")
    sentinel.spawn()
    await master.start()
    await watch.start()
    url = f"rediss+sentinel://:{password}@127.0.0.1:{watch.port}/fleet/0"
    link = redis.RedisLink(f"{url}?ssl_ca_certs={authority.file}", clocks.SystemClock())
    await link.start()
    assert await registry.RedisRegistry(link.client, wire.Keys("test")).next_incarnation()
    assert master.clients and watch.clients
    await link.stop()
    unchecked = redis.RedisLink(url, clocks.SystemClock(), required_within_s=0.1)
    with pytest.raises(errors.RetryableError):
        await unchecked.start()
    await unchecked.stop()
    await master.stop()
    await watch.stop()
    await sentinel.stop(3.0)
    await server.stop()


async def test_a_cluster_with_tls(tmp_path: pathlib.Path, authority: certificates.Authority) -> None:
    """Who is sent on to another node speaks TLS with that one too, and checks it."""
    fronts = [tls_front.TlsFront(authority.issue("node", "127.0.0.1")) for _ in range(3)]
    async with redis_nodes.running(tmp_path / "nodes", announced=[each.port for each in fronts]) as cluster:
        for front, node in zip(fronts, cluster.primaries, strict=True):
            front.target = node.port
            await front.start()
        # The first one asked owns nothing of this fleet.
        asked = next(f for f, node in zip(fronts, cluster.primaries, strict=True) if node is not cluster.owner("test"))
        place = f"rediss+cluster://:{redis_nodes.PASSWORD}@127.0.0.1:{asked.port}"
        link = redis.RedisLink(f"{place}?ssl_ca_certs={authority.file}", clocks.SystemClock())
        await link.start()
        assert await registry.RedisRegistry(link.client, wire.Keys("test")).next_incarnation()
        assert fronts[cluster.primaries.index(cluster.owner("test"))].clients
        await link.stop()
        unchecked = redis.RedisLink(place, clocks.SystemClock(), required_within_s=0.1)
        with pytest.raises(errors.RetryableError, match=r"(?i)certificate"):
            await unchecked.start()
        await unchecked.stop()
        for front in fronts:
            await front.stop()

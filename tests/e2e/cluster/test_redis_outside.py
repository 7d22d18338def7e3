"""The chart on real nodes with a Redis that is not its own: named by Sentinels, a cluster, or behind TLS."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis
from tests.cluster import flags, tools
from tests.cluster.node import session
from tests.e2e.cluster import installed
from tests.support import certificates, examples, redis_nodes, sentinels, tls_front
from tests.support.load import Load

# Of the machine that the nodes are on: Pods reach it as they do what is outside of their cluster.
HOST = flags.NODE_GATEWAY
CA_FOLDER = "/etc/penstock-redis-ca"


@dataclasses.dataclass(frozen=True)
class Outside:
    """A Redis. `fail`: ends the server that holds the fleet, where another can take its place."""

    url: str
    ca: pathlib.Path | None = None
    fail: Callable[[], Coroutine[Any, Any, None]] | None = None


@contextlib.asynccontextmanager
async def of_sentinels(folder: pathlib.Path, fleet: str) -> AsyncIterator[Outside]:
    """A master and a replica."""
    group = sentinels.Group(folder, HOST)

    async def fail() -> None:
        group.kill("first")

    try:
        group.start()
        await group.until_replicated()
        yield Outside(group.url, fail=fail)
    finally:
        group.stop()


@contextlib.asynccontextmanager
async def of_a_cluster(folder: pathlib.Path, fleet: str) -> AsyncIterator[Outside]:
    """Three shards, each with a replica."""
    async with redis_nodes.running(folder / "nodes", replicas=True, host=HOST) as cluster:

        async def fail() -> None:
            await cluster.owner(fleet).stop()

        yield Outside(cluster.url, fail=fail)


@contextlib.asynccontextmanager
async def behind_tls(folder: pathlib.Path, fleet: str) -> AsyncIterator[Outside]:
    """One server, with a certificate of a CA that nobody knows."""
    server = embedded_redis.EmbeddedRedis(folder / "redis", clocks.SystemClock())
    await server.start()
    authority = certificates.Authority(folder)
    front = tls_front.TlsFront(authority.issue("redis", HOST), host=HOST)
    front.target = server.port
    await front.start()
    credentials = server.url.partition("://")[2].partition("@")[0]
    url = f"rediss://{credentials}@{HOST}:{front.port}/0?ssl_ca_certs={CA_FOLDER}/ca.crt"
    try:
        yield Outside(url, authority.file)
    finally:
        await front.stop()
        await server.stop()


@contextlib.contextmanager
def running() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """A loop of its own, which goes on while a test waits for kubectl; gives what runs something in it, to its end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(120)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def release(cluster: session.RealCluster, kube: tools.Tools, name: str, outside: Outside) -> Iterator[tools.Tools]:
    """The chart in a namespace of its own; kubectl in it."""
    space = kube.within(name)
    kube.kubectl("create", "namespace", name)
    values = ["redis.mode=external", "redis.existingSecret=outside"]
    try:
        space.kubectl("create", "secret", "generic", "outside", f"--from-literal=url={outside.url}")
        if outside.ca is not None:
            space.kubectl("create", "secret", "generic", "outside-ca", f"--from-file=ca.crt={outside.ca}")
            values.append("redis.caSecret=outside-ca")
        installed.install(space, cluster.folder, "--set", ",".join(values))
        yield space
    finally:
        space.run("kubectl", "delete", "md", "--all", "--timeout=120s", timeout_s=150)
        space.run("helm", "uninstall", "penstock", "--wait")
        kube.kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.parametrize("made", [of_sentinels, of_a_cluster, behind_tls])
def test_a_fleet_of_this_redis(
    made: Callable[[pathlib.Path, str], contextlib.AbstractAsyncContextManager[Outside]],
    cluster: session.RealCluster,
    kube: tools.Tools,
    tmp_path: pathlib.Path,
) -> None:
    """No Redis of the release's own; workers come, clients are answered, and where its master ends under load none is lost."""
    name = made.__name__.replace("_", "-")
    with running() as run, contextlib.ExitStack() as held:
        server = made(tmp_path, name)
        outside = run(server.__aenter__())
        held.callback(lambda: run(server.__aexit__(None, None, None)))
        space = held.enter_context(release(cluster, kube, name, outside))
        assert installed.pods(space, "app.kubernetes.io/component=redis") == []
        space.apply(examples.example())
        space.wait("--for=condition=Ready", "md/tiny")
        with Load(installed.gateway_url(space), "tiny") as load:
            tools.until("requests are answered", lambda: len(load.outcomes) > 10)
            if outside.fail is not None:
                run(outside.fail())
            space.kubectl("scale", "md/tiny", "--replicas=3")
            tools.until("a third worker is told of", lambda: workers(space) == 3, 180)
            tools.until("all is well", lambda: problems(space) == [], 60)
            seen = len(load.outcomes)
            tools.until("requests go on", lambda: len(load.outcomes) > seen + 20)
        assert load.problems == []


def workers(space: tools.Tools) -> int:
    """Those that are ready by what the controller reads in Redis."""
    return sum(each["state"] == "ready" for each in installed.status(space).get("workers", ()))


def problems(space: tools.Tools) -> list[str]:
    """What is degraded."""
    found: list[str] = installed.status(space).get("problems", ["no controller answers"])
    return found

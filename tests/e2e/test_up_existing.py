"""`penstock up` on a Redis and a Ray that are there already, and that stay as they were."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import redis.asyncio as aioredis

from controller import ray_node
from penstock.runtime import clock, embedded_redis, processes
from tests.support import local_fleet, redis_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

# Runs on the existing cluster: an application of somebody else, and a look at what there is.
OTHERS = """
import sys, ray
from ray import serve
ray.init(address=sys.argv[1], namespace="theirs", log_to_driver=False, logging_level="error")
if sys.argv[2] == "deploy":
    @serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0.01})
    class Theirs:
        def __call__(self):
            return "theirs"
    serve.start(proxy_location="Disabled")
    serve.run(Theirs.bind(), name="tiny-0", route_prefix=None)
for name, app in sorted(serve.status().applications.items()):
    print(name, app.status.value)
"""


class Existing:
    """A Redis with a password, and a Ray that wants a token, with another's application on it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.redis = embedded_redis.EmbeddedRedis(folder / "redis", clock.SystemClock())
        self.ray_address = ""
        self._address_file = folder / "ray.address"
        argv = [
            *(sys.executable, "-m", "controller.ray_node", "--run-dir", str(folder), "--temp-dir", str(folder / "r")),
            *("--address-file", str(self._address_file)),
        ]
        self.env = {**os.environ, **ray_node.environment(folder)}
        log_path = folder / "ray.log"
        self._ray = processes.Child("ray", argv, env=self.env, log_path=log_path, death_signal=signal.SIGTERM)

    def fleet(self, *args: str) -> local_fleet.LocalFleet:
        """`penstock up` with one gateway, on both."""
        options = ("--redis-url", self.redis.url, "--ray-address", self.ray_address, "--gateways", "1")
        made = local_fleet.LocalFleet(self.folder, *options, *args)
        made.env = {**self.env, **{name: made.env[name] for name in ("TMPDIR", "HOME")}}
        return made

    async def start(self) -> None:
        """Starts both."""
        await self.redis.start()
        self._ray.spawn()
        async with asyncio.timeout(60):
            while not self._address_file.exists():
                assert self._ray.running, self._ray.log_tail(20_000)
                await asyncio.sleep(0.1)
        self.ray_address = self._address_file.read_text()
        assert await self.applications("deploy") == ["tiny-0 RUNNING"]

    async def applications(self, what: str = "look") -> list[str]:
        """What runs on the cluster."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", OTHERS, self.ray_address, what),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=self.folder, env=self.env,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode().splitlines()

    async def keys(self) -> list[bytes | str]:
        """What is in Redis."""
        async with aioredis.Redis.from_url(self.redis.url) as client:
            return list(await client.keys())

    async def stop(self) -> None:
        """Stops both."""
        await self._ray.stop(20.0)
        await self.redis.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def existing() -> AsyncIterator[Existing]:
    """For the module."""
    # Not tmp_path: Ray's unix sockets need a short path.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pex-"))
    made = Existing(folder)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def test_serves_on_both_and_leaves_them_as_they_were(existing: Existing) -> None:
    """Workers run beside another's application of the same name; a second fleet needs its own namespace; then all is gone."""
    fleet, second = existing.fleet("--workers", "2"), existing.fleet()
    fleet.start()
    try:
        await fleet.ready()
        assert local_fleet.ask(fleet.port) == 200
        assert sorted(fleet.workers()) == ["tiny-0", "tiny-1"]
        ours = ["penstock.default.tiny-0 RUNNING", "penstock.default.tiny-1 RUNNING"]
        assert await existing.applications() == [*ours, "tiny-0 RUNNING"]
        password = existing.redis.url.split(":")[2].split("@")[0]
        assert password not in fleet.log.read_text()
        second.start()
        await second.ended(1)
        assert "choose another with --namespace" in second.log.read_text()
        assert await asyncio.to_thread(fleet.stop, signal.SIGINT) == 0, fleet.log.read_text()
        assert await existing.applications() == ["tiny-0 RUNNING"]
        assert await existing.keys() == []
    finally:
        await asyncio.to_thread(fleet.stop, signal.SIGKILL)


async def test_a_namespace_that_was_in_use_gets_what_is_asked_for_now(existing: Existing) -> None:
    """After SIGKILL of the command the next one adopts the workers, has as many as it is told to, and ends them all."""
    first, second = existing.fleet("--workers", "1"), existing.fleet("--workers", "2")
    first.start()
    try:
        await first.ready()
        before = first.workers()
        await asyncio.to_thread(first.stop, signal.SIGKILL)
        second.start()
        await second.ready()
        assert local_fleet.ask(second.port) == 200
        after = second.workers()
        assert len(after) == 2 and before.items() <= after.items()
        assert await asyncio.to_thread(second.stop, signal.SIGINT) == 0
        assert await existing.applications() == ["tiny-0 RUNNING"]
    finally:
        await asyncio.to_thread(first.stop, signal.SIGKILL)
        await asyncio.to_thread(second.stop, signal.SIGKILL)


async def test_serves_on_a_redis_cluster(existing: Existing, tmp_path: pathlib.Path) -> None:
    """All parts of a fleet on three shards; when it ends the cluster is as empty as it was."""
    async with redis_nodes.running(tmp_path) as cluster:
        fleet = existing.fleet("--redis-url", cluster.url, "--workers", "2")
        fleet.start()
        try:
            await fleet.ready()
            assert local_fleet.ask(fleet.port) == 200
            assert sorted(fleet.workers()) == ["tiny-0", "tiny-1"]
            assert redis_nodes.PASSWORD not in fleet.log.read_text()
            assert await cluster.owner("default").client.dbsize()
            assert await asyncio.to_thread(fleet.stop, signal.SIGINT) == 0, fleet.log.read_text()
            assert [await node.client.dbsize() for node in cluster.nodes] == [0, 0, 0]
        finally:
            await asyncio.to_thread(fleet.stop, signal.SIGKILL)


async def test_a_redis_that_refuses_us_is_named(existing: Existing) -> None:
    """A wrong password ends the start, with the reason and without the password."""
    fleet = existing.fleet("--redis-url", existing.redis.url.replace("redis://:", "redis://:wrong-"))
    fleet.start()
    await fleet.ended(1)
    said = fleet.log.read_text()
    assert "redis at redis://" in said and "password" in said
    assert "wrong-" not in said and "Traceback" not in said

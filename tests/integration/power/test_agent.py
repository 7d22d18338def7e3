"""The agent of a node as a process: real Redis, real sockets, real signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import httpx
import pytest

from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, processes, redis, registry
from tests.support import fake_nvml, powercap

GPU = fake_nvml.gpu(instant_mw=412_500, energy_mj=1_000, limit_mw=700_000, mhz=1980)


class Node:
    """A node's agent and what it measures."""

    def __init__(
        self, folder: pathlib.Path, server: embedded_redis.EmbeddedRedis, nvml: Mapping[str, str] | None = None
    ) -> None:
        """`nvml`: where GPUs are found; without it only the CPU is looked at."""
        self.tree = powercap.Powercap(folder / "sys")
        self._joules = 1
        self.tree.zone("intel-rapl:0", "package-0", self._joules * 1_000_000)
        self._gpus = folder / "gpus"
        self.gpus(GPU, GPU)
        self.url = f"http://127.0.0.1:{processes.free_port()}"
        self.log = folder / "log"
        env = {
            "PENSTOCK_NODE_ID": "node-1.example",
            "PENSTOCK_NODE_REDIS_URL": server.url,
            "PENSTOCK_NODE_SYS_DIR": str(self.tree.sys_dir),
            "PENSTOCK_NODE_METERS": "rapl" if nvml is None else "nvml,rapl",
            "PENSTOCK_NODE_INTERVAL_S": "0.05",
            "PENSTOCK_NODE_BEAT_S": "0.1",
            "PENSTOCK_NODE_METRICS_PORT": self.url.rpartition(":")[2],
        }
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "power"], env=os.environ | dict(nvml or {}) | env, stdout=out, stderr=out
            )

    def gpus(self, *lines: str) -> None:
        """The library's state, whole at once: it is read all the time."""
        partial = self._gpus.with_suffix(".partial")
        partial.write_text("\n".join(("0", *lines, "")))
        partial.replace(self._gpus)

    def drew(self) -> bool:
        """Draws a joule more; whether the agent's metrics say that the CPU draws anything."""
        self._joules += 1
        self.tree.counts("intel-rapl:0", self._joules * 1_000_000)
        answer = self.get("/metrics")
        lines = answer.text.splitlines() if answer is not None else []
        return any(float(each.rpartition(" ")[2]) for each in lines if each.startswith("penstock_node_power_watts{"))

    def get(self, path: str) -> httpx.Response | None:
        """An answer of its port; None while there is none."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.url + path, trust_env=False)
        return None

    def says(self, sample: str) -> bool:
        """Whether a line of its metrics begins so."""
        answer = self.get("/metrics")
        return answer is not None and any(line.startswith(sample) for line in answer.text.splitlines())

    async def until(self, check: Callable[[], bool]) -> None:
        """Waits for a condition, with what the agent said where it does not come."""
        for _ in range(600):
            if check():
                return
            await asyncio.sleep(0.05)
        pytest.fail(self.log.read_text())


@pytest.fixture
async def server(tmp_path: pathlib.Path) -> AsyncIterator[embedded_redis.EmbeddedRedis]:
    """A Redis."""
    made = embedded_redis.EmbeddedRedis(tmp_path / "redis", clocks.SystemClock())
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def known(server: embedded_redis.EmbeddedRedis) -> AsyncIterator[Callable[[], list[types.RegisteredNode]]]:
    """What Redis holds of nodes, looked at again and again."""
    link = redis.RedisLink(server.url, clocks.SystemClock(), required_within_s=None)
    await link.start()
    found: list[types.RegisteredNode] = []

    async def look() -> None:
        while True:
            with contextlib.suppress(Exception):
                found[:] = await registry.RedisRegistry(link.client, wire.Keys("default")).nodes()
            await asyncio.sleep(0.02)

    task = asyncio.create_task(look())
    yield lambda: found
    task.cancel()
    await link.stop()


@pytest.fixture
def node(tmp_path: pathlib.Path, server: embedded_redis.EmbeddedRedis) -> Iterator[Node]:
    """An agent that measures a CPU."""
    made = Node(tmp_path, server)
    yield made
    made.process.kill()
    made.process.wait()


@pytest.fixture
def with_gpus(tmp_path: pathlib.Path, server: embedded_redis.EmbeddedRedis) -> Iterator[Node]:
    """An agent that measures two GPUs too."""
    made = Node(tmp_path, server, fake_nvml.build(tmp_path))
    yield made
    made.process.kill()
    made.process.wait()


async def test_a_node_tells_what_it_draws(node: Node, known: Callable[[], list[types.RegisteredNode]]) -> None:
    """In metrics and in Redis; SIGTERM takes the record back, and nothing secret is logged."""
    await node.until(node.drew)
    await node.until(lambda: node.drew() and bool(known()) and bool(known()[0].record.cpu_w))
    ready = node.get("/readyz")
    assert ready is not None and ready.status_code == 200
    [found] = known()
    assert (found.record.id, found.record.gpus, found.record.gpu_w) == ("node-1.example", None, None)
    assert found.record.degraded == () and found.lease_left_s > 0 and found.silent_s == 0
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(15) == 0
    await node.until(lambda: not known())
    log = node.log.read_text()
    assert "node_agent_stopped" in log and ":***@" in log


async def test_without_redis_it_measures_on(
    node: Node, server: embedded_redis.EmbeddedRedis, known: Callable[[], list[types.RegisteredNode]]
) -> None:
    """The mode is in its metrics and log, and ends with Redis' return; no record says that it lacks Redis."""
    await node.until(lambda: bool(known()))
    await server.stop()
    await node.until(lambda: node.says('penstock_node_degraded{mode="registry-lost",node="node-1.example"} 1.0'))
    await node.until(node.drew)
    before = list(known())
    await server.start()
    await node.until(lambda: node.says('penstock_node_degraded{mode="registry-lost",node="node-1.example"} 0.0'))
    assert "the node's sums are not told" in node.log.read_text()
    told: list[types.NodeRecord] = []

    def told_thrice() -> bool:
        node.drew()
        told.extend(each.record for each in known() if each not in before and each.record not in told)
        return len(told) > 2

    await node.until(told_thrice)
    assert {each.degraded for each in told} == {()}


async def test_a_killed_agent_is_silent(node: Node, known: Callable[[], list[types.RegisteredNode]]) -> None:
    """Its record stays, with the time since when."""
    await node.until(lambda: bool(known()))
    node.process.kill()
    await node.until(lambda: known()[0].silent_s > 0.1)


async def test_gpus_are_told_and_one_that_is_lost_is_named(
    with_gpus: Node, known: Callable[[], list[types.RegisteredNode]]
) -> None:
    """In metrics and in the node's record."""
    node = with_gpus
    power = 'penstock_node_power_watts{device="GPU-1",kind="gpu",node="node-1.example"} 412.5'
    await node.until(lambda: node.says(power) and bool(known()) and known()[0].record.gpu_w == 825.0)
    assert known()[0].record.gpus == 2
    node.gpus(GPU, fake_nvml.gpu(status=15))
    await node.until(lambda: bool(known()[0].record.degraded))
    assert known()[0].record.degraded == ("meter-failed: GPU 1: GPU is lost",) and known()[0].record.gpu_w is None

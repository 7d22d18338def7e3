"""The agent of a node as a process: real Redis, real sockets, real signals."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest

from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, processes, redis, registry
from tests.support import fake_nvml, powercap

GPU = fake_nvml.gpu(instant_mw=412_500, energy_mj=1_000, limit_mw=700_000, mhz=1980)


class Node:
    """A node's agent and what it measures."""

    def __init__(self, folder: pathlib.Path, server: embedded_redis.EmbeddedRedis) -> None:
        self.tree = powercap.Powercap(folder / "sys")
        self.tree.zone("intel-rapl:0", "package-0", 1_000_000)
        nvml = fake_nvml.build(folder)
        self._gpus = pathlib.Path(nvml["FAKE_NVML"])
        self.gpus(GPU, GPU)
        self.url = f"http://127.0.0.1:{processes.free_port()}"
        self.log = folder / "log"
        env = {
            "PENSTOCK_NODE_ID": "node-1.example",
            "PENSTOCK_NODE_REDIS_URL": server.url,
            "PENSTOCK_NODE_SYS_DIR": str(self.tree.sys_dir),
            "PENSTOCK_NODE_INTERVAL_S": "0.05",
            "PENSTOCK_NODE_BEAT_S": "0.1",
            "PENSTOCK_NODE_METRICS_PORT": self.url.rpartition(":")[2],
        }
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "power"], env=os.environ | nvml | env, stdout=out, stderr=out
            )

    def gpus(self, *lines: str) -> None:
        """The library's state, whole at once: it is read all the time."""
        partial = self._gpus.with_suffix(".partial")
        partial.write_text("\n".join(("0", *lines, "")))
        partial.replace(self._gpus)

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
    """An agent that measures."""
    made = Node(tmp_path, server)
    yield made
    made.process.kill()
    made.process.wait()


async def test_a_node_tells_what_it_draws(node: Node, known: Callable[[], list[types.RegisteredNode]]) -> None:
    """In metrics and in Redis; SIGTERM takes the record back, and nothing secret is logged."""
    await node.until(
        lambda: node.says('penstock_node_power_watts{device="GPU-1",kind="gpu",node="node-1.example"} 412.5')
    )
    ready = node.get("/readyz")
    assert ready is not None and ready.status_code == 200
    counter = 1_000_000

    def drew() -> bool:
        nonlocal counter
        counter += 1_000_000
        node.tree.counts("intel-rapl:0", counter)
        return bool(known()) and bool(known()[0].record.cpu_w)

    await node.until(drew)
    [found] = known()
    assert (found.record.id, found.record.gpus, found.record.gpu_w) == ("node-1.example", 2, 825.0)
    assert found.record.degraded == () and found.lease_left_s > 0 and found.silent_s == 0
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(15) == 0
    await node.until(lambda: not known())
    log = node.log.read_text()
    assert "node_agent_stopped" in log and ":***@" in log


async def test_without_redis_it_measures_on(
    node: Node, server: embedded_redis.EmbeddedRedis, known: Callable[[], list[types.RegisteredNode]]
) -> None:
    """The mode is in its metrics and log, and ends with Redis' return."""
    await node.until(lambda: bool(known()))
    await server.stop()
    await node.until(lambda: node.says('penstock_node_degraded{mode="registry-lost",node="node-1.example"} 1.0'))
    node.gpus(GPU.replace("412500", "99000"), GPU)
    await node.until(
        lambda: node.says('penstock_node_power_watts{device="GPU-0",kind="gpu",node="node-1.example"} 99.0')
    )
    await server.start()
    await node.until(lambda: node.says('penstock_node_degraded{mode="registry-lost",node="node-1.example"} 0.0'))
    assert "the node's sums are not told" in node.log.read_text()
    told = []

    def told_thrice() -> bool:
        told.extend(each.record for each in known() if each.record.gpu_w == 511.5 and each.record not in told)
        return len(told) > 2

    async with asyncio.timeout(30):
        for counter in itertools.count(2_000_000, 1_000_000):
            if told_thrice():
                break
            node.tree.counts("intel-rapl:0", counter)
            await asyncio.sleep(0.05)
    assert {each.degraded for each in told} == {()}


async def test_a_killed_agent_is_silent_and_a_lost_gpu_is_named(
    node: Node, known: Callable[[], list[types.RegisteredNode]]
) -> None:
    """Its record stays with the time since when; what it said of itself stays too."""
    await node.until(lambda: bool(known()) and known()[0].record.gpu_w == 825.0)
    node.gpus(GPU, fake_nvml.gpu(status=15))
    await node.until(lambda: bool(known()[0].record.degraded))
    assert known()[0].record.degraded == ("meter-failed: GPU 1: GPU is lost",) and known()[0].record.gpu_w is None
    node.process.kill()
    await node.until(lambda: known()[0].silent_s > 0.1)

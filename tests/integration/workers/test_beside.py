"""The agent's process beside an engine's process: found, registered, relayed, drained by registry, by hook and by SIGTERM."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, processes, registry
from penstock.runtime import redis as redis_link
from workers.hosting import spec

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 200, "stream": True}


class Pod:
    """What the two containers of a worker's Pod run."""

    def __init__(self, folder: pathlib.Path, redis: embedded_redis.EmbeddedRedis) -> None:
        self.folder, self.redis = folder, redis
        self.port, self.agent_port, self.events, self.replay = (processes.free_port() for _ in range(4))
        self.link = redis_link.RedisLink(redis.url, clocks.SystemClock())
        self.registry = registry.RedisRegistry(self.link.client, wire.Keys("default"))
        self.running: list[asyncio.subprocess.Process] = []

    async def engine(self) -> asyncio.subprocess.Process:
        """The engine's container: it serves as a vLLM would."""
        argv = ["-m", "workers.sim", "--model", "tiny", "--port", str(self.port), "--profile", "cpu-tiny"]
        argv += ["--kv-events-port", str(self.events), "--kv-replay-port", str(self.replay)]
        return await self._run(argv, {})

    async def agent(self, **settings: Any) -> asyncio.subprocess.Process:
        """The agent's."""
        wanted = spec.WorkerSpec(
            id="m-0",
            deployment="m",
            model="tiny",
            revision="r1",
            engine=types.EngineSpec(kind="vllm", profile="cpu-tiny"),
            engine_url=f"http://127.0.0.1:{self.port}",
            kv_events=f"tcp://127.0.0.1:{self.events}",
            kv_replay=f"tcp://127.0.0.1:{self.replay}",
            agent_port=self.agent_port,
            drains_by_registry=True,
            **settings,
        )
        env = {"PENSTOCK_WORKER_SPEC": wanted.model_dump_json(), "PENSTOCK_WORKER_REDIS_URL": self.redis.url}
        return await self._run(["-m", "workers.hosting"], env)

    async def _run(self, argv: list[str], env: dict[str, str]) -> asyncio.subprocess.Process:
        with open(self.folder / "log", "ab") as log:
            started = await asyncio.create_subprocess_exec(
                *processes.die_with_parent([sys.executable, *argv]), env={**os.environ, **env}, stdout=log, stderr=log
            )
        self.running.append(started)
        return started

    async def record(self) -> types.WorkerRecord | None:
        """What is registered."""
        found = await self.registry.snapshot()
        return found[0].record if found else None

    async def until(self, state: types.WorkerState | None, deadline_s: float = 30.0) -> types.WorkerRecord | None:
        """Waits until the worker is registered so; None: not at all."""
        async with asyncio.timeout(deadline_s):
            while True:
                found = await self.record()
                if (found.state if found else None) is state:
                    return found
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Ends what still runs."""
        for each in self.running:
            if each.returncode is None:
                each.kill()
            await each.wait()
        await self.link.stop()


@pytest_asyncio.fixture
async def pod(tmp_path: pathlib.Path) -> AsyncIterator[Pod]:
    """Nothing runs yet but Redis."""
    redis = embedded_redis.EmbeddedRedis(tmp_path, clocks.SystemClock())
    await redis.start()
    found = Pod(tmp_path, redis)
    await found.link.start()
    yield found
    await found.stop()
    await redis.stop()


async def test_an_engine_that_comes_late_is_registered(pod: Pod) -> None:
    """Starting while the engine does not answer, ready with what it tells when it does, gone when it has ended."""
    agent = await pod.agent()
    await pod.until(types.WorkerState.STARTING)
    engine = await pod.engine()
    found = await pod.until(types.WorkerState.READY)
    assert found is not None
    assert (found.endpoint.port, found.revision, found.engine, found.role) == (pod.port, "r1", "vllm", "unified")
    assert found.capacity.kv_blocks and found.capacity.block_size_tokens
    engine.kill()
    await pod.until(None)
    assert await agent.wait() == 1, "Kubernetes starts the agent again"


async def test_its_blocks_are_relayed(pod: Pod) -> None:
    """What the engine caches reaches the fleet's reports."""
    await pod.engine()
    await pod.agent()
    await pod.until(types.WorkerState.READY)
    async with httpx.AsyncClient(trust_env=False) as client:
        body = {**BODY, "stream": False, "messages": [{"role": "user", "content": "word " * 400}], "max_tokens": 4}
        answer = await client.post(f"http://127.0.0.1:{pod.port}/v1/chat/completions", json=body, timeout=30)
        assert answer.is_success
    async with asyncio.timeout(20):
        while not await pod.link.client.xrange(wire.Keys("default").kv_reports):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("by", ["registry", "hook", "SIGTERM"])
async def test_a_drain_waits_for_the_last_stream(pod: Pod, by: str) -> None:
    """However it is told, the agent leaves routing at once, and ends with 0 only when the stream has; the engine lives on."""
    engine = await pod.engine()
    agent = await pod.agent(drain_s=60.0)
    await pod.until(types.WorkerState.READY)
    url = f"http://127.0.0.1:{pod.port}/v1/chat/completions"
    async with (
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
        client.stream("POST", url, json=BODY) as stream,
    ):
        lines = stream.aiter_lines()
        await anext(lines)
        hook: asyncio.Task[httpx.Response] | None = None
        if by == "registry":
            await pod.registry.set_state("m-0", None, types.WorkerState.DRAINING)
        elif by == "hook":
            hook = asyncio.create_task(client.get(f"http://127.0.0.1:{pod.agent_port}/drain"))
        else:
            agent.send_signal(signal.SIGTERM)
        await pod.until(types.WorkerState.DRAINING)
        assert agent.returncode is None and (hook is None or not hook.done())
        last = ""
        async for line in lines:
            last = line or last
        ended_s = time.monotonic()
        assert last == "data: [DONE]"
        if hook is not None:
            assert (await hook).status_code == 200
        async with asyncio.timeout(10):
            assert await agent.wait() == 0
        assert time.monotonic() - ended_s < 10
    assert await pod.record() is None
    assert engine.returncode is None


async def test_a_stop_before_the_engine_is_there(pod: Pod) -> None:
    """An agent that still waits for its engine ends at once, and leaves nothing behind."""
    agent = await pod.agent()
    await pod.until(types.WorkerState.STARTING)
    agent.send_signal(signal.SIGTERM)
    async with asyncio.timeout(5):
        assert await agent.wait() == 0
    assert await pod.record() is None

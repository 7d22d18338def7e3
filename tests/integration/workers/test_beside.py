"""The agent's process beside an engine's process: found, registered, relayed, drained by registry, by hook and by SIGTERM."""

from __future__ import annotations

import asyncio
import pathlib
import signal
import socket
import time
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis
from tests.support.worker_pod import BODY, Pod


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
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client, pod.stream() as lines:
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


async def test_a_drain_waits_for_an_engine_that_stalls(pod: Pod) -> None:
    """One that answers nothing for longer than probes bear, and then goes on: its stream comes whole."""
    engine = await pod.engine()
    agent = await pod.agent(drain_s=60.0)
    await pod.until(types.WorkerState.READY)
    async with pod.stream() as lines:
        agent.send_signal(signal.SIGTERM)
        await pod.until(types.WorkerState.DRAINING)
        engine.send_signal(signal.SIGSTOP)
        await asyncio.sleep(15)
        assert agent.returncode is None
        engine.send_signal(signal.SIGCONT)
        last = ""
        async for line in lines:
            last = line or last
        assert last == "data: [DONE]"
    async with asyncio.timeout(10):
        assert await agent.wait() == 0


async def test_a_stop_before_the_engine_is_there(pod: Pod) -> None:
    """An agent that still waits for its engine ends at once, and leaves nothing behind."""
    agent = await pod.agent()
    await pod.until(types.WorkerState.STARTING)
    agent.send_signal(signal.SIGTERM)
    async with asyncio.timeout(5):
        assert await agent.wait() == 0
    assert await pod.record() is None


async def test_a_drain_before_the_engine_is_there(pod: Pod) -> None:
    """A worker that is told to go while it waits for its engine ends at once: it has nothing to finish."""
    agent = await pod.agent()
    await pod.until(types.WorkerState.STARTING)
    await pod.registry.set_state("m-0", None, types.WorkerState.DRAINING)
    async with asyncio.timeout(10):
        assert await agent.wait() == 0
    assert await pod.record() is None


async def test_only_the_pod_itself_is_heard(pod: Pod) -> None:
    """From another address than the loopback the hook is refused, and the worker goes on; health is told to all."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        try:
            # Nothing is sent: it only chooses the address that would be sent from.
            route.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address beside the loopback")
        address = route.getsockname()[0]
    await pod.engine()
    await pod.agent()
    await pod.until(types.WorkerState.READY)
    async with httpx.AsyncClient(trust_env=False) as client:
        told = await client.get(f"http://{address}:{pod.agent_port}/drain")
        assert told.status_code == 403
        assert (await client.get(f"http://{address}:{pod.agent_port}/healthz")).status_code == 200
    found = await pod.record()
    assert found is not None and found.state is types.WorkerState.READY

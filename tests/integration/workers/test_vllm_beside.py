"""A real vLLM on CPU, started as the operator's container would, with the agent beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import sys

import httpx
import pytest

from operators import build, pods
from operators.policy import workers
from penstock.api import types, wire
from penstock.api.crds import modeldeployment
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, processes, registry
from penstock.runtime import redis as redis_link
from workers.vllm import install, process, tiny_model

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(500),
    pytest.mark.skipif(not install.is_installed(), reason="no .venv-vllm; make vllm installs it"),
]
CPU = [
    "--dtype=float32",
    "--enforce-eager",
    "--max-model-len=4096",
    "--block-size=32",
    "--kv-cache-memory-bytes=67108864",
]


def pod() -> dict[str, dict[str, object]]:
    """The containers of the operator's Pod by name."""
    deployment = modeldeployment.ModelDeployment.written(
        {
            "metadata": {"name": "m", "namespace": "models", "uid": "u"},
            "spec": {
                "model": {"name": "tiny", "source": {"path": "/models/tiny"}},
                "engine": {"args": CPU, "lora": {"maxLoaded": 2}},
            },
        }
    )
    made = build.pod(deployment, workers.Create("m-0", "unified", "r1"), pods.WorkerHost("x", "redis", "url", "vllm:x"))
    return {each["name"]: each for each in made["spec"]["containers"]}


def engine_command(folder: pathlib.Path, port: int) -> list[str]:
    """The engine's command with this machine's files and ports, on 127.0.0.1 only."""
    command = [str(each) for each in pod()["engine"]["command"]]  # type: ignore[attr-defined]  # a list of strings
    command[0] = str((install.DEFAULT_VENV / "bin" / "vllm").absolute())
    command[2] = str(folder / "tiny")
    command[command.index("--host") + 1] = "127.0.0.1"
    command[command.index("--port") + 1] = str(port)
    index = command.index("--kv-events-config") + 1
    events = json.loads(command[index]) | {
        "endpoint": f"ipc://{folder}/kv",
        "replay_endpoint": f"ipc://{folder}/replay",
    }
    command[index] = json.dumps(events)
    return command


def agent_spec(folder: pathlib.Path, port: int) -> str:
    """The agent's specification, likewise."""
    env: list[dict[str, str]] = pod()["agent"]["env"]  # type: ignore[assignment]  # as in a Pod
    spec = json.loads(next(each["value"] for each in env if each["name"] == "PENSTOCK_WORKER_SPEC"))
    own = {"host": "127.0.0.1", "engine_url": f"http://127.0.0.1:{port}", "agent_port": None}
    return json.dumps(spec | own | {"kv_events": f"ipc://{folder}/kv", "kv_replay": f"ipc://{folder}/replay"})


async def test_vllm_takes_the_operators_flags_and_the_agent_serves_it(tmp_path: pathlib.Path) -> None:
    """It starts, is registered with its capacity, its blocks are told, and a drain ends the agent after the last stream."""
    tiny_model.write(tmp_path / "tiny")
    redis = embedded_redis.EmbeddedRedis(tmp_path, clocks.SystemClock())
    await redis.start()
    link = redis_link.RedisLink(redis.url, clocks.SystemClock())
    await link.start()
    store = registry.RedisRegistry(link.client, wire.Keys("models"))
    port = processes.free_port()
    settings = process.VllmSettings(model_path=tmp_path / "tiny", lora=True)
    env = process.VllmProcess(settings)._environment()
    agent_env = {"PENSTOCK_WORKER_SPEC": agent_spec(tmp_path, port), "PENSTOCK_WORKER_REDIS_URL": redis.url}
    log = open(tmp_path / "log", "wb")  # noqa: SIM115  closed with the processes
    engine = await asyncio.create_subprocess_exec(
        *engine_command(tmp_path, port), env=env, stdout=log, stderr=log, start_new_session=True
    )
    agent = await asyncio.create_subprocess_exec(
        *processes.die_with_parent([sys.executable, "-m", "workers.hosting"]),
        env={**os.environ, **agent_env}, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        record = await until_ready(store, engine, tmp_path)
        assert (record.engine, record.revision, record.endpoint.port) == ("vllm", "r1", port)
        assert record.engine_version.startswith("0.") and record.capacity.kv_blocks
        assert record.capacity.max_model_len_tokens == 4096
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            body = {"model": "tiny", "prompt": "zebra " * 60, "max_tokens": 200, "ignore_eos": True, "stream": True}
            async with client.stream("POST", "/v1/completions", json=body) as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                await store.set_state("m-0", None, types.WorkerState.DRAINING)
                last = [line async for line in lines if line][-1]
            assert last == "data: [DONE]"
        assert await link.client.xrange(wire.Keys("models").kv_reports)
        async with asyncio.timeout(20):
            assert await agent.wait() == 0
        assert await store.snapshot() == [] and engine.returncode is None
    finally:
        for each in (engine, agent):
            if each.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(each.pid, signal.SIGTERM) if each is engine else each.kill()
                await each.wait()
        log.close()
        await link.stop()
        await redis.stop()


async def until_ready(
    store: registry.Registry, engine: asyncio.subprocess.Process, folder: pathlib.Path
) -> types.WorkerRecord:
    """Waits until the agent has registered it as ready."""
    async with asyncio.timeout(360):
        while True:
            assert engine.returncode is None, (folder / "log").read_text(errors="replace")[-3000:]
            for each in await store.snapshot():
                if each.record.state is types.WorkerState.READY:
                    return each.record
            await asyncio.sleep(0.5)

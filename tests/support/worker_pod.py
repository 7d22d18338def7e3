"""A worker's Pod as processes: an engine and the agent beside it, on a Redis."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx

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

    @contextlib.asynccontextmanager
    async def stream(self) -> AsyncIterator[AsyncIterator[str]]:
        """Lines of an answer of the engine's that takes a while, of which one has come."""
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        async with (
            httpx.AsyncClient(trust_env=False, timeout=60) as client,
            client.stream("POST", url, json=BODY) as stream,
        ):
            lines = stream.aiter_lines()
            await anext(lines)
            yield lines

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

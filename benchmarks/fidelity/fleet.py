"""A real fleet without Ray: Redis, workers as plain processes, one gateway, and `penstock replay` against it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import sys
import urllib.request
from collections.abc import AsyncIterator, Sequence
from typing import Any

from penstock.api import types
from penstock.runtime import clock, embedded_redis, processes
from workers.hosting import __main__ as hosting
from workers.hosting import spec

MODEL = "tiny"
_ASK_S = 0.2


class FleetError(RuntimeError):
    """A process did not start or ended early; the message has its last lines."""


@contextlib.asynccontextmanager
async def workers(
    folder: pathlib.Path, engine: types.EngineSpec, count: int, ready_s: float = 60.0
) -> AsyncIterator[str]:
    """Runs `count` workers that register in a Redis of their own, whose URL it gives. Raises FleetError."""
    redis = embedded_redis.EmbeddedRedis(folder / "redis", clock.SystemClock())
    await redis.start()
    children: list[processes.Child] = []
    try:
        for number in range(count):
            told = spec.WorkerSpec(
                id=f"w-{number}", deployment=MODEL, model=MODEL, engine=engine, temp_dir=folder, drain_s=1.0
            )
            env = {**os.environ, hosting.SPEC_ENV: told.model_dump_json(), spec.REDIS_URL_ENV: redis.url}
            children.append(_spawn(folder, told.id, "workers.hosting", env))
        async with gateway(folder, redis.url, "round-robin", count, ready_s, children):
            pass
        yield redis.url
    finally:
        await asyncio.gather(*(child.stop(15.0) for child in children))
        await redis.stop()


@contextlib.asynccontextmanager
async def gateway(
    folder: pathlib.Path,
    redis_url: str,
    policy: str,
    count: int,
    ready_s: float = 30.0,
    needed: Sequence[processes.Child] = (),
) -> AsyncIterator[tuple[str, list[str]]]:
    """Runs a gateway with an empty index; gives its URL and the engines' once it has `count` of them. Raises FleetError."""
    port, admin = processes.free_port(), processes.free_port()
    arguments = ("--policy", policy, "--port", str(port), "--admin-port", str(admin))
    child = _spawn(
        folder, f"gw-{port}", "router.server", {**os.environ, "PENSTOCK_GATEWAY_REDIS_URL": redis_url}, *arguments
    )
    try:
        found: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(ready_s):
                while len(found) < count:
                    for each in (child, *needed):
                        if not each.running:
                            raise FleetError(f"{each.name} ended: {each.log_tail()}")
                    await asyncio.sleep(_ASK_S)
                    found = await asyncio.to_thread(_ready, admin)
        except TimeoutError:
            raise FleetError(f"{len(found)} of {count} workers within {ready_s:g} s: {child.log_tail()}") from None
        yield f"http://127.0.0.1:{port}", [f"http://{each['address']}" for each in found]
    finally:
        await child.stop(10.0)


async def replay(url: str, trace: pathlib.Path, *arguments: str) -> dict[str, Any]:
    """Figures of `penstock replay`. Raises FleetError unless every request completed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controller.cli.main", "replay", str(trace), "--target", url, "--json", "-"),
        *(*arguments, "--retries", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode:
        kinds = json.loads(output)["errors_by_kind"] if output else ""
        raise FleetError(f"penstock replay ended with {process.returncode}: {kinds} {errors.decode()[-2000:]}")
    figures: dict[str, Any] = json.loads(output)
    return figures


def _spawn(folder: pathlib.Path, name: str, module: str, env: dict[str, str], *arguments: str) -> processes.Child:
    child = processes.Child(name, [sys.executable, "-m", module, *arguments], env=env, log_path=folder / f"{name}.log")
    child.spawn()
    return child


def _ready(admin: int) -> list[dict[str, Any]]:
    """The gateway's endpoints that take requests; none while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/debug/endpoints", timeout=5) as answer:
            rows: list[dict[str, Any]] = json.load(answer)["endpoints"]
    except OSError:
        return []
    return [row for row in rows if row["state"] == "ready"]

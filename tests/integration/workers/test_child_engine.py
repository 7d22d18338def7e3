"""An engine that the worker starts by a command: a real process, asked like one that runs beside."""

from __future__ import annotations

import asyncio
import pathlib
import sys

import psutil
import pytest

from penstock.api import types
from penstock.runtime import clock as clocks
from penstock.runtime import errors, processes
from workers.hosting import child_engine, engines, spec


def told(command: list[str], port: int, folder: pathlib.Path) -> spec.WorkerSpec:
    """A worker whose engine is that command."""
    return spec.WorkerSpec(
        id="m-0",
        deployment="m",
        model="tiny",
        engine=types.EngineSpec(kind="vllm", profile="cpu-tiny"),
        engine_url=f"http://127.0.0.1:{port}",
        command=tuple(command),
        temp_dir=folder,
    )


async def test_it_is_started_asked_and_stopped(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready when it has answered; it does not know the registry's URL; an end of it is seen, and a stop ends it."""
    monkeypatch.setenv(spec.REDIS_URL_ENV, "redis://:secret@127.0.0.1:1/0")
    port = processes.free_port()
    command = [sys.executable, "-m", "workers.sim", "--model", "tiny", "--port", str(port), "--profile", "cpu-tiny"]
    made = engines.make(told(command, port, tmp_path))
    assert isinstance(made, child_engine.ChildEngine)
    async with asyncio.timeout(60):
        found = await made.start()
    assert (found.port, found.engine) == (port, "vllm") and found.capacity.kv_blocks
    assert await made.alive() and await made.load() == 0
    [child] = psutil.Process().children()
    assert spec.REDIS_URL_ENV not in child.environ()
    await made.stop(5.0)
    assert not await made.alive() and not child.is_running()


async def test_an_engine_that_ends_is_said_with_its_last_words(tmp_path: pathlib.Path) -> None:
    """A wrong flag ends the start at once, not after a wait for an answer."""
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    made = child_engine.ChildEngine(told(command, 1, tmp_path), clocks.SystemClock())
    async with asyncio.timeout(20):
        with pytest.raises(errors.StartError, match="ended with 1 before it answered: no such model"):
            await made.start()


def test_a_command_needs_an_address() -> None:
    """Where the engine answers has to be known."""
    with pytest.raises(ValueError, match="command needs engine_url"):
        spec.WorkerSpec(id="m-0", deployment="m", model="tiny", command=("vllm",))

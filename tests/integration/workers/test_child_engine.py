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
    before = set(psutil.Process().children())
    made = engines.make(told(command, port, tmp_path))
    assert isinstance(made, child_engine.ChildEngine)
    async with asyncio.timeout(60):
        found = await made.start()
    assert (found.port, found.engine) == (port, "vllm") and found.capacity.kv_blocks
    assert await made.alive() and await made.load() == 0
    [child] = set(psutil.Process().children()) - before
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


# A server that ends at SIGTERM, and beside it a process that does not: as an engine's own that hold the accelerators.
_FAMILY = """
import signal, subprocess, sys
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
child.stdout.readline()
print("GET /health 200")
print("child", child.pid, flush=True)
sys.argv = ["sim", *sys.argv[1:]]
from workers.sim.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("how", ["stopped", "ended"])
async def test_what_an_engine_has_started_ends_with_it(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], how: str
) -> None:
    """None of its processes is left, whether it is told to stop or has ended by itself; its words are the worker's, but for probes."""
    port = processes.free_port()
    flags = ["--model", "tiny", "--port", str(port), "--profile", "cpu-tiny"]
    made = child_engine.ChildEngine(told([sys.executable, "-c", _FAMILY, *flags], port, tmp_path), clocks.SystemClock())
    async with asyncio.timeout(60):
        await made.start()
    said = capfd.readouterr().out
    assert "GET /health" not in said
    deaf = psutil.Process(int(said.split("child ")[1].split()[0]))
    if how == "ended":
        deaf.parent().kill()  # type: ignore[union-attr]
        async with asyncio.timeout(10):
            while await made.alive():
                await asyncio.sleep(0.05)
        assert deaf.is_running()
    async with asyncio.timeout(20):
        await made.stop(1.0)
    assert not deaf.is_running() or deaf.status() == psutil.STATUS_ZOMBIE


async def test_an_engine_that_takes_too_long_is_given_up(tmp_path: pathlib.Path) -> None:
    """The start ends at its deadline, and the program with it."""
    command = [sys.executable, "-c", "import time; print('loading', flush=True); time.sleep(600)"]
    before = set(psutil.Process().children())
    config = told(command, 1, tmp_path).model_copy(update={"start_s": 1.0})
    made = child_engine.ChildEngine(config, clocks.SystemClock())
    with pytest.raises(errors.StartError, match="did not answer within 1 s: loading"):
        await made.start()
    assert set(psutil.Process().children()) <= before


def test_a_command_needs_an_address() -> None:
    """Where the engine answers has to be known."""
    with pytest.raises(ValueError, match="command needs engine_url"):
        spec.WorkerSpec(id="m-0", deployment="m", model="tiny", command=("vllm",))

"""`penstock calibrate` as a process against servers on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import sys
from collections.abc import AsyncIterator

import pytest

from penstock import perf
from penstock.runtime import processes
from simulator import scenario, simulation
from tests.support import gateways, scripted_engine

ROOT = pathlib.Path(__file__).parents[3]
TRUTH = perf.load_profile("h100-llama3.1-8b")


@contextlib.asynccontextmanager
async def engine(*args: str) -> AsyncIterator[str]:
    """A simulated worker as a process of its own, and its URL."""
    port = processes.free_port()
    argv = [sys.executable, "-m", "workers.sim", "--model", "demo", "--port", str(port), *args]
    process = await asyncio.create_subprocess_exec(
        *processes.die_with_parent(argv), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 30), "the worker ended"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 20)


async def calibrate(*args: str) -> tuple[int | None, str, str]:
    """Exit status, standard output and standard error."""
    argv = [sys.executable, "-m", "controller.cli.main", "calibrate", *args]
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode, output.decode(), errors.decode()


@pytest.mark.slow
async def test_the_speed_of_an_engine_is_found(tmp_path: pathlib.Path) -> None:
    """The profile of a simulated worker is found from outside, to 20 % on a busy machine, and the simulator takes it."""
    path = tmp_path / "found.json"
    async with engine("--profile", TRUTH.name) as url:
        status, _, errors = await calibrate("--target", url, "--rounds", "1", "--pause", "0", "--out", str(path))
    assert status == 0, errors
    found = perf.load_profile(str(path))
    assert (found.kv_blocks, found.block_size) == (TRUTH.kv_blocks, TRUTH.block_size)
    assert found.fit is not None and found.fit.held_back >= 4 and found.fit.held_back_error < 0.2
    for uncached, cached in ((500, 0), (6_000, 0), (500, 4_000)):
        truth = TRUTH.frontend_ms + TRUTH.step.prefill_ms(uncached, cached)
        assert found.frontend_ms + found.step.prefill_ms(uncached, cached) == pytest.approx(truth, rel=0.2)
    for seqs, kv_tokens in ((1, 100), (16, 1_600), (16, 32_000)):
        truth = TRUTH.step.decode_step_ms(seqs, kv_tokens)
        assert found.step.decode_step_ms(seqs, kv_tokens) == pytest.approx(truth, rel=0.2)
    told = scenario.parse(
        {
            "fleet": {"models": [{"profile": str(path)}]},
            "generators": [{"kind": "clients", "name": "a", "rate_rps": 2, "duration_s": 10}],
        }
    )
    assert simulation.run(told).figures["completed"] > 5


async def test_wrong_use_is_said_before_anything_is_measured() -> None:
    """A model that is not served and a KV cache of unknown size end the command with 2 and say what to do."""
    async with engine() as url:
        status, _, errors = await calibrate("--target", url, "--model", "other")
        assert status == 2 and "does not serve 'other'; it serves: demo" in errors
        async with gateways.running(url) as gateway:
            status, _, errors = await calibrate("--target", gateway.url)
            assert status == 2 and "give --kv-blocks" in errors
    status, _, errors = await calibrate("--target", "http://127.0.0.1:9")
    assert status == 2 and "127.0.0.1:9" in errors


async def test_a_server_that_cannot_be_measured_is_a_failure() -> None:
    """Answers that are no streams end the command with 1, and nothing is printed as a profile."""
    async with scripted_engine.ScriptedEngine(scripted_engine.answer()) as server:
        status, output, errors = await calibrate("--target", server.url)
    assert (status, output) == (1, "")
    assert "not_a_stream" in errors


async def test_fields_of_clients_are_asked_with() -> None:
    """`--extra-body` is in every request, beside what measuring needs."""
    seen: list[dict[str, object]] = []

    async def behave(received: scripted_engine.Received) -> None:
        seen.append(received.json())
        await scripted_engine.answer()(received)

    async with scripted_engine.ScriptedEngine(behave) as server:
        extra = ("--extra-body", '{"temperature": 0.5}', "--kv-blocks", "100")
        status, _, _ = await calibrate("--target", server.url, "--model", scripted_engine.MODEL, *extra)
    assert status == 1
    [asked] = seen
    assert (asked["temperature"], asked["ignore_eos"], asked["stream"]) == (0.5, True, True)

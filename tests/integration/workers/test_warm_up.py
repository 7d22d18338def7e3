"""An engine gets a request before it gets traffic."""

from __future__ import annotations

import asyncio

import pytest

from penstock.api import types
from penstock.runtime import clock as clocks
from tests.support import scripted_engine
from workers.hosting import beside_engine, spec


def beside(engine: scripted_engine.ScriptedEngine) -> beside_engine.BesideEngine:
    """The agent's view of an engine."""
    worker = spec.WorkerSpec(
        id="w", deployment="d", model="m", engine=types.EngineSpec(kind="vllm"), engine_url=engine.url
    )
    return beside_engine.BesideEngine(worker, clocks.SystemClock())


async def test_it_is_registered_after_its_first_answer() -> None:
    """`start` returns when a short completion of the deployment's model was answered, not as soon as the engine is healthy."""
    gate = asyncio.Event()

    async def late(received: scripted_engine.Received) -> None:
        await gate.wait()
        await scripted_engine.answer("warm")(received)

    async with scripted_engine.ScriptedEngine(late) as engine:
        starting = asyncio.create_task(beside(engine).start())
        await asyncio.wait_for(engine.arrived.wait(), 10)
        assert not starting.done()
        gate.set()
        await asyncio.wait_for(starting, 10)
        [received] = engine.received
    assert received.line.startswith(b"POST /v1/completions")
    assert (received.json()["model"], received.json()["max_tokens"]) == ("m", 4)


@pytest.mark.parametrize(("status", "asked"), [("503 Service Unavailable", 2), ("404 Not Found", 1)])
async def test_what_the_engine_says_of_it(status: str, asked: int) -> None:
    """An engine that fails is asked again; one that does no completions is warm enough."""
    refusals = scripted_engine.refusal(status, "no")
    behaviour = scripted_engine.by_number(lambda number: refusals if number == 0 else scripted_engine.answer("warm"))
    async with scripted_engine.ScriptedEngine(behaviour) as engine:
        await asyncio.wait_for(beside(engine).start(), 10)
        assert len(engine.received) == asked

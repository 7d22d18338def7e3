"""The agent beside a scripted engine, on the in-memory registry and a manual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from penstock.api import types
from penstock.runtime import clock, errors, registry
from workers import agent
from workers.hosting import engine, spec


class ScriptedEngine:
    """An engine that does what the test says."""

    def __init__(self) -> None:
        self.running = False
        # It runs, and answers nothing.
        self.silent = False
        self.requests: int | None = 0
        self.stopped_with_s: float | None = None
        self.start_error: Exception | None = None
        self.may_start = asyncio.Event()
        self.may_start.set()

    async def start(self) -> engine.EngineInfo:
        """Waits for permission; then runs on port 9001."""
        await self.may_start.wait()
        if self.start_error is not None:
            raise self.start_error
        self.running = True
        return engine.EngineInfo(host="127.0.0.1", port=9001, engine="sim", version="1", simulated=True)

    async def alive(self) -> bool:
        """As set."""
        return self.running and not self.silent

    async def ended(self) -> bool:
        """As set."""
        return not self.running

    async def load(self) -> int | None:
        """As set."""
        return self.requests

    async def stop(self, drain_s: float) -> None:
        """Notes it."""
        self.running = False
        self.stopped_with_s = drain_s


class Bench:
    """An agent, its engine, its registry."""

    def __init__(self, *, drains_by_registry: bool = False) -> None:
        self.clock = clock.ManualClock()
        self.registry = registry.MemoryRegistry(self.clock)
        self.engine = ScriptedEngine()
        self.spec = spec.WorkerSpec(
            id="w-0", deployment="tiny", model="tiny", drain_s=30.0, drains_by_registry=drains_by_registry
        )
        self.agent = agent.WorkerAgent(self.spec, self.engine, self.registry, self.clock)

    async def states(self) -> dict[str, str]:
        """What is registered."""
        return {item.record.id: item.record.state.value for item in await self.registry.snapshot()}


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    """A bench whose agent has not started."""
    bench = Bench()
    yield bench
    bench.registry.available = True
    await bench.agent.stop()


async def test_starting_then_ready(bench: Bench) -> None:
    """It registers as starting before the engine answers, and as ready with the engine's address after."""
    bench.engine.may_start.clear()
    starting = asyncio.create_task(bench.agent.start())
    await bench.clock.advance(10.0)
    assert await bench.states() == {"w-0": "starting"}
    bench.engine.may_start.set()
    await starting
    [got] = await bench.registry.snapshot()
    assert got.record.state is types.WorkerState.READY and got.record.endpoint.port == 9001


async def test_lease_is_kept(bench: Bench) -> None:
    """The lease never comes near its end while the engine lives."""
    await bench.agent.start()
    for _ in range(20):
        await bench.clock.advance(0.5)
        [got] = await bench.registry.snapshot()
        assert got.lease_left_s is not None and got.lease_left_s >= 1.5


async def test_registers_again_after_an_outage(bench: Bench) -> None:
    """A registry that comes back empty has the worker again within two renewals."""
    await bench.agent.start()
    bench.registry.available = False
    await bench.clock.advance(60.0)
    bench.registry.wipe()
    bench.registry.available = True
    await bench.clock.advance(2.0)
    assert await bench.states() == {"w-0": "ready"}


async def test_ready_is_told_later_where_the_registry_was_away(bench: Bench) -> None:
    """An engine that got ready while the registry was away is registered as ready when it is back."""
    bench.engine.may_start.clear()
    starting = asyncio.create_task(bench.agent.start())
    await bench.clock.advance(1.5)
    bench.registry.available = False
    bench.engine.may_start.set()
    await starting
    bench.registry.available = True
    await bench.clock.advance(1.5)
    assert await bench.states() == {"w-0": "ready"}


async def test_drain_finishes_what_runs(bench: Bench) -> None:
    """Draining is announced at once; the engine stops only when nothing runs; then the worker is gone."""
    await bench.agent.start()
    bench.engine.requests = 2
    draining = asyncio.create_task(bench.agent.drain())
    await bench.clock.advance(5.0)
    assert await bench.states() == {"w-0": "draining"} and bench.engine.running
    bench.engine.requests = None
    await bench.clock.advance(5.0)
    assert bench.engine.running, "unknown load is not zero"
    bench.engine.requests = 0
    await bench.clock.advance(0.2)
    await draining
    assert await bench.states() == {} and not bench.engine.running and bench.agent.failure is None


async def begin_drain(bench: Bench) -> asyncio.Task[None]:
    """The drain of a worker with a request, a second after its beginning."""
    await bench.agent.start()
    bench.engine.requests = 1
    draining = asyncio.create_task(bench.agent.drain())
    await bench.clock.advance(1.0)
    return draining


async def test_drain_waits_for_an_engine_that_is_silent(bench: Bench) -> None:
    """It may have streams to finish; without a drain it would be taken out of routing."""
    draining = await begin_drain(bench)
    bench.engine.silent, bench.engine.requests = True, None
    await bench.clock.advance(20.0)
    assert bench.engine.running and not bench.agent.ended.is_set()
    bench.engine.silent, bench.engine.requests = False, 0
    await bench.clock.advance(0.2)
    await draining
    assert bench.agent.failure is None


async def test_drain_ends_with_the_engine(bench: Bench) -> None:
    """Nothing is left to wait for."""
    draining = await begin_drain(bench)
    bench.engine.running, bench.engine.requests = False, None
    await bench.clock.advance(2.0)
    assert bench.agent.ended.is_set()
    await draining


async def test_the_registry_may_order_a_drain() -> None:
    """A worker that obeys it finishes what runs and ends, without a failure; any other serves on."""
    for obeys in (True, False):
        bench = Bench(drains_by_registry=obeys)
        await bench.agent.start()
        bench.engine.requests = 1
        await bench.registry.set_state("w-0", None, types.WorkerState.DRAINING)
        await bench.clock.advance(5.0)
        assert bench.engine.running and not bench.agent.ended.is_set()
        bench.engine.requests = 0
        await bench.clock.advance(2.0)
        assert bench.agent.ended.is_set() is obeys
        assert bench.engine.running is not obeys
        assert bench.agent.failure is None
        await bench.agent.stop()


async def test_drain_waits_for_gateways_also_when_idle(bench: Bench) -> None:
    """An idle engine still serves for the time that gateways need to see the drain."""
    await bench.agent.start()
    draining = asyncio.create_task(bench.agent.drain())
    await bench.clock.advance(0.25)
    assert bench.engine.running
    await bench.clock.advance(0.2)
    await draining
    assert not bench.engine.running


async def test_drain_ends_at_its_limit(bench: Bench) -> None:
    """A stream that does not end is cut when the limit is over."""
    await bench.agent.start()
    bench.engine.requests = 1
    draining = asyncio.create_task(bench.agent.drain())
    await bench.clock.advance(29.0)
    assert bench.engine.running
    await bench.clock.advance(1.5)
    await draining
    assert await bench.states() == {}


async def test_drain_without_a_registry_still_ends(bench: Bench) -> None:
    """A registry that is away keeps no worker from finishing and stopping."""
    await bench.agent.start()
    bench.registry.available = False
    draining = asyncio.create_task(bench.agent.drain())
    await bench.clock.advance(1.0)
    await draining
    assert not bench.engine.running


async def test_dead_engine_ends_the_agent(bench: Bench) -> None:
    """An engine that dies is deregistered by the next renewal, and the agent says so."""
    await bench.agent.start()
    bench.engine.running = False
    await bench.clock.advance(1.5)
    assert await bench.states() == {} and bench.agent.ended.is_set() and bench.agent.failure
    assert not await bench.agent.healthy()


async def test_dead_engine_is_seen_without_a_registry(bench: Bench) -> None:
    """The engine is watched also while the registry is away."""
    await bench.agent.start()
    bench.registry.available = False
    bench.engine.running = False
    await bench.clock.advance(1.5)
    assert bench.agent.failure == "the engine ended"


async def test_newer_incarnation_fences(bench: Bench) -> None:
    """Where another incarnation registered, this one stops its engine and leaves the registration alone."""
    await bench.agent.start()
    assert bench.agent.record is not None
    newer = bench.agent.record.model_copy(update={"incarnation": bench.agent.record.incarnation + 1})
    await bench.registry.register(newer, 60.0)
    await bench.clock.advance(1.5)
    assert not bench.engine.running and bench.agent.failure is not None
    [got] = await bench.registry.snapshot()
    assert got.record == newer


async def test_failed_start_leaves_no_registration(bench: Bench) -> None:
    """An engine that cannot start is not left registered."""
    bench.engine.start_error = errors.StartError("no")
    with pytest.raises(errors.StartError):
        await bench.agent.start()
    assert await bench.states() == {}


async def test_a_drain_before_it_has_a_name_leaves_nothing_registered(bench: Bench) -> None:
    """A Pod that is deleted while its agent starts: the engine is not started, and no lease is left behind."""
    starting = asyncio.create_task(bench.agent.start())
    bench.agent.begin_drain()
    await bench.clock.advance(60.0)
    await starting
    assert bench.agent.ended.is_set() and not bench.engine.running
    assert await bench.states() == {}


async def test_a_drain_while_it_registers_leaves_nothing_registered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes first, the registration or the drain's end."""
    register = bench.registry.register

    async def late(record: types.WorkerRecord, lease_s: float) -> None:
        if record.state is types.WorkerState.STARTING:
            bench.agent.begin_drain()
            for _ in range(20):
                await asyncio.sleep(0)
        await register(record, lease_s)

    monkeypatch.setattr(bench.registry, "register", late)
    starting = asyncio.create_task(bench.agent.start())
    await bench.clock.advance(60.0)
    await starting
    assert bench.agent.ended.is_set() and not bench.engine.running
    assert await bench.states() == {}

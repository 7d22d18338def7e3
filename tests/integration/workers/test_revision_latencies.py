"""Two revisions' latencies, read from real simulated engines of different speed."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from operators import fleets, scraped
from operators.policy.rollout import Verdict
from penstock.api import types
from penstock.api.crds import modeldeployment
from penstock.runtime import clock as clocks
from penstock.runtime import registry
from workers.sim import server as sim_server
from workers.sim import settings as sim_settings

REQUESTS = 60


def deployment(ttft: str) -> modeldeployment.ModelDeployment:
    """With a target for the first token."""
    spec = {"model": {"name": "m"}, "engine": {"kind": "sim"}, "sloClasses": [{"name": "chat", "ttft": ttft}]}
    return modeldeployment.ModelDeployment.written({"metadata": {"name": "d", "namespace": "n"}, "spec": spec})


class Fleet:
    """An engine of each revision, registered."""

    def __init__(self) -> None:
        self.clock = clocks.ManualClock()
        self.registry = registry.MemoryRegistry(self.clock)
        self.scraped = scraped.Scraped(fleets.Asked(self.registry), self.clock)
        self.engines: list[sim_server.SimServer] = []
        self.ports: dict[str, int] = {}

    async def add(self, revision: str, **settings: Any) -> None:
        """One engine."""
        engine = sim_server.SimServer(sim_settings.SimSettings(model="m", profile="cpu-tiny", **settings))
        self.ports[revision] = await engine.start()
        self.engines.append(engine)
        record = types.WorkerRecord(
            id=f"w-{revision}", incarnation=1, deployment="d", model="m", revision=revision,
            endpoint=types.Endpoint(host="127.0.0.1", port=self.ports[revision]),
            state=types.WorkerState.READY, engine="sim",
        )  # fmt: skip
        await self.registry.register(record, 1e6)

    async def ask(self, revision: str, count: int) -> None:
        """So many requests."""
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            url = f"http://127.0.0.1:{self.ports[revision]}/v1/completions"
            for number in range(count):
                body = {"model": "m", "prompt": f"{number} some words to read", "max_tokens": 1}
                assert (await client.post(url, json=body)).is_success

    async def says(self, ttft: str) -> Verdict:
        """The verdict ten seconds later."""
        await self.clock.advance(10)
        return await self.scraped.of(deployment(ttft), "old", "new")

    async def stop(self) -> None:
        """Ends the engines."""
        await self.scraped.stop()
        for each in self.engines:
            await each.stop(0.0)


@pytest.mark.parametrize(
    ("slowdown", "ttft", "verdict"), [(20.0, "20ms", "worse"), (20.0, "1h", "good"), (1.0, "1ms", "good")]
)
async def test_slower_and_beyond_the_target_is_worse(slowdown: float, ttft: str, verdict: str) -> None:
    """Slow is no fault while the target is met, nor is a target that both miss; few requests say nothing."""
    fleet = Fleet()
    try:
        await fleet.add("old")
        await fleet.add("new", slowdown=slowdown)
        # What came before the roll-out does not count.
        await fleet.ask("new", 5)
        assert await fleet.says(ttft) is Verdict.UNKNOWN
        await asyncio.gather(fleet.ask("old", REQUESTS), fleet.ask("new", 10))
        assert await fleet.says(ttft) is Verdict.UNKNOWN
        await fleet.ask("new", REQUESTS)
        assert await fleet.says(ttft) == verdict
    finally:
        await fleet.stop()


async def test_engines_that_do_not_answer_are_unknown() -> None:
    """No metrics is no data, not a good sign."""
    fleet = Fleet()
    await fleet.add("old")
    await fleet.add("new")
    for each in fleet.engines:
        await each.stop(0.0)
    fleet.engines.clear()
    assert await fleet.says("1s") is Verdict.UNKNOWN
    await fleet.stop()

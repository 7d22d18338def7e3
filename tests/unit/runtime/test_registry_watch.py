"""The watcher's static stability, on a manual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from penstock.api import types
from penstock.runtime import clock, registry

LEASE_S = 3.0


def worker(name: str, port: int = 9000) -> types.WorkerRecord:
    """A ready worker."""
    return types.WorkerRecord(
        id=name,
        incarnation=1,
        deployment="tiny",
        model="tiny",
        endpoint=types.Endpoint(host="127.0.0.1", port=port),
        state=types.WorkerState.READY,
        engine="sim",
    )


class Bench:
    """A watcher on the twin with two workers that are kept registered as long as `alive` names them."""

    def __init__(self) -> None:
        self.clock = clock.ManualClock()
        self.registry = registry.MemoryRegistry(self.clock)
        self.removed: list[str] = []
        self.alive = {"w-0", "w-1"}
        self.watcher = registry.RegistryWatcher(
            self.registry, None, self.clock, lambda _, gone: self.removed.extend(gone), lease_s=LEASE_S
        )

    async def run(self, duration_s: float) -> None:
        """Lets time pass with each live worker renewing, or registering again, every half second."""
        for _ in range(int(duration_s / 0.5)):
            for name in sorted(self.alive) if self.registry.available else []:
                if not await self.registry.renew(name, 1, LEASE_S):
                    await self.registry.register(worker(name), LEASE_S)
            await self.clock.advance(0.5)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    """A bench in steady state."""
    bench = Bench()
    for name in sorted(bench.alive):
        await bench.registry.register(worker(name), LEASE_S)
    await bench.watcher.start(wait_s=None)
    await bench.run(2.0)
    assert set(bench.watcher.workers) == bench.alive and bench.watcher.synced
    yield bench
    await bench.watcher.stop()


async def test_nothing_is_dropped_while_the_registry_is_away(bench: Bench) -> None:
    """Ten minutes without a registry change nothing but `synced` and `stale_s`."""
    bench.registry.available = False
    await bench.run(600)
    assert set(bench.watcher.workers) == {"w-0", "w-1"} and bench.removed == []
    stale_s = bench.watcher.stale_s
    assert not bench.watcher.synced and stale_s is not None and 599 < stale_s < 602


async def test_empty_registry_after_an_outage_keeps_those_that_come_back(bench: Bench) -> None:
    """After a restart without data the living stay throughout, the dead go after one lease and 2 s."""
    bench.registry.available = False
    await bench.run(10)
    bench.registry.wipe()
    bench.registry.available = True
    bench.alive = set()
    await bench.run(2.0)
    assert set(bench.watcher.workers) == {"w-0", "w-1"}
    bench.alive = {"w-0"}
    await bench.run(1.5)
    assert set(bench.watcher.workers) == {"w-0", "w-1"} and bench.watcher.synced
    await bench.run(3.0)
    assert set(bench.watcher.workers) == {"w-0"} and bench.removed == ["w-1"]


async def test_frozen_registry_does_not_expire_everyone(bench: Bench) -> None:
    """A registry that comes back with its data and all leases ended loses no worker that renews again."""
    bench.registry.available = False
    await bench.run(30)
    bench.registry.available = True
    await bench.clock.advance(1.0)
    await bench.run(10)
    assert set(bench.watcher.workers) == {"w-0", "w-1"} and bench.removed == []


async def test_dead_worker_goes_by_its_lease(bench: Bench) -> None:
    """In steady state a worker that stops renewing is gone within its lease and two sweeps."""
    bench.alive = {"w-0"}
    await bench.run(4.5)
    assert bench.removed == ["w-1"]


async def test_change_missed_by_the_log_is_found_by_the_resync(bench: Bench) -> None:
    """What the log never told is found by the next full snapshot, within 30 s."""
    bench.registry._workers["w-0"] = worker("w-0", port=9100)
    await bench.run(31)
    assert bench.watcher.workers["w-0"].endpoint.port == 9100

"""Meters are read each in its own time, and what they do wrong is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import prometheus_client

from penstock.runtime import clock as clocks
from penstock.runtime import degraded
from power import metrics, sampling
from power.meters import port
from power.policy import readings


class Scripted:
    """A meter that does what it is told."""

    def __init__(self, name: str, read: Callable[[], list[readings.Reading]]) -> None:
        self.name, self.does, self.closed = name, read, 0
        self.reads = 0

    def read(self) -> list[readings.Reading]:
        """See the port."""
        self.reads += 1
        return self.does()

    def close(self) -> None:
        """See the port."""
        self.closed += 1


def gpu(watts: float | None = 300.0, **more: object) -> readings.Reading:
    """One that is read."""
    return readings.Reading("GPU-0", "gpu", "H100", watts=watts, **more)  # type: ignore[arg-type]


def absent() -> list[readings.Reading]:
    """Nothing of its kind is on the node."""
    raise port.AbsentError("no such thing")


class Rig:
    """A sampler over meters, its health and its metrics."""

    def __init__(self, *meters: Scripted, expected: tuple[str, ...] = ()) -> None:
        clock = clocks.SystemClock()
        self.health = degraded.Degraded(clock, "node", sampling.MODES)
        self.sampler = sampling.Sampler(meters, clock, self.health, interval_s=0.01, expected=expected)
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(metrics.Collector("n-1", self.sampler, self.health))

    async def __aenter__(self) -> Rig:
        await self.sampler.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sampler.stop()

    async def until(self, check: Callable[[], object]) -> None:
        """Waits for a condition."""
        async with asyncio.timeout(10):
            while not check():
                await asyncio.sleep(0.002)

    def sample(self, name: str, **labels: str) -> float | None:
        """A metric's value; None where it has none."""
        return self._registry.get_sample_value(f"penstock_node_{name}", {"node": "n-1", **labels})


GPU = {"kind": "gpu", "device": "GPU-0"}


async def test_a_meter_that_fails_reads_as_unknown_and_not_as_zero() -> None:
    """Its devices have no sample, the mode says why, and both end with the failure."""
    meter = Scripted("nvml", lambda: [gpu(slowed_by=("power_cap",), limit_w=700.0)])
    async with Rig(meter) as rig:
        await rig.until(lambda: rig.sample("power_watts", **GPU) == 300.0)
        assert rig.sample("slowed", **GPU, reason="power_cap") == 1.0
        assert rig.sample("slowed", **GPU, reason="thermal") == 0.0
        assert rig.sampler.sums() == readings.Sums(1, 300.0, None)

        def fail() -> list[readings.Reading]:
            raise RuntimeError("driver is upset")

        meter.does = fail
        await rig.until(lambda: rig.health.modes())
        assert rig.health.modes() == {sampling.METER_FAILED: "driver is upset"}
        assert rig.sample("power_watts", **GPU) is None and rig.sample("meter_up", meter="nvml") == 0.0
        assert rig.sample("degraded", mode=sampling.METER_FAILED) == 1.0
        assert rig.sampler.sums() == readings.Sums(None, None, None)
        meter.does = lambda: [gpu(310.0)]
        await rig.until(lambda: rig.sample("power_watts", **GPU) == 310.0)
        assert rig.health.modes() == {} and rig.sample("degraded", mode=sampling.METER_FAILED) == 0.0
    assert meter.closed == 1


async def test_one_lost_device_is_named_and_the_rest_told() -> None:
    """The sum is unknown then."""
    lost = readings.Reading("gpu-1", "gpu", fault="GPU 1: GPU is lost")
    async with Rig(Scripted("nvml", lambda: [gpu(), lost])) as rig:
        await rig.until(lambda: rig.health.modes())
        assert rig.health.lines() == ("meter-failed: GPU 1: GPU is lost",)
        assert rig.sample("power_watts", **GPU) == 300.0
        assert rig.sample("power_watts", kind="gpu", device="gpu-1") is None
        assert rig.sampler.sums() == readings.Sums(2, None, None)


async def test_what_a_node_lacks_is_a_fault_only_where_it_is_expected() -> None:
    """Also where there is nothing to measure at all: a virtual machine mostly shows nothing."""
    cpu = readings.Reading("package-0", "cpu", watts=50.0)
    without, with_cpu = Scripted("nvml", absent), Scripted("rapl", lambda: [cpu])
    async with Rig(without, with_cpu) as rig:
        await rig.until(lambda: rig.sampler.looked)
        assert rig.health.modes() == {} and rig.sampler.sums() == readings.Sums(0, None, 50.0)
    async with Rig(without, with_cpu, expected=("nvml",)) as rig:
        await rig.until(lambda: rig.sampler.looked)
        assert rig.health.lines() == ("meter-missing: nvml: no such thing",)
    async with Rig(without, Scripted("rapl", absent)) as rig:
        await rig.until(lambda: rig.sampler.looked)
        assert rig.health.modes() == {} and rig.sampler.sums() == readings.Sums(0, None, None)
        assert rig.sample("meter_up", meter="nvml") == rig.sample("meter_up", meter="rapl") == 0.0


async def test_a_meter_that_hangs_holds_up_no_other() -> None:
    """It is said after a while, its old numbers are let go, it is not called a second time, and it may come back."""
    go, cpu = threading.Event(), [readings.Reading("package-0", "cpu", watts=50.0)]
    meter, other = Scripted("nvml", lambda: [gpu()]), Scripted("rapl", lambda: cpu)
    async with Rig(meter, other) as rig:
        await rig.until(lambda: rig.sample("power_watts", **GPU))

        def hang() -> list[readings.Reading]:
            go.wait(30)
            return [gpu(320.0)]

        meter.does = hang
        await rig.until(lambda: rig.health.modes())
        assert rig.health.lines() == ("meter-failed: nvml has not answered for 3 s",)
        assert rig.sample("power_watts", **GPU) is None
        calls, others = meter.reads, other.reads
        await rig.until(lambda: other.reads > others + 5)
        assert meter.reads == calls
        go.set()
        await rig.until(lambda: rig.sample("power_watts", **GPU) == 320.0)
        assert rig.health.modes() == {}


async def test_the_agent_ends_beside_a_meter_that_hangs() -> None:
    """What is stuck in a driver is left to its thread, and not closed under it."""
    go = threading.Event()

    def hang() -> list[readings.Reading]:
        go.wait(30)
        return []

    meter = Scripted("nvml", hang)
    async with Rig(meter) as rig:
        await rig.until(lambda: meter.reads)
        async with asyncio.timeout(5):
            await rig.sampler.stop()
    assert meter.closed == 0
    go.set()


async def test_watts_come_from_the_counter_where_none_are_told() -> None:
    """The mean between two looks; the joules go on over a failure."""
    drawn = iter(range(0, 100_000, 2))
    meter = Scripted(
        "rapl", lambda: [readings.Reading("package-0", "cpu", joules=float(next(drawn)), wrap_j=262_143.0)]
    )
    labels = {"kind": "cpu", "device": "package-0"}
    async with Rig(meter) as rig:
        await rig.until(lambda: rig.sample("power_watts", **labels))
        counted = rig.sample("energy_joules_total", **labels)
        assert counted is not None and counted > 0
        does, meter.does = meter.does, absent
        await rig.until(lambda: rig.sample("meter_up", meter="rapl") == 0.0)
        assert rig.sample("energy_joules_total", **labels) is None
        meter.does = does
        await rig.until(lambda: (rig.sample("energy_joules_total", **labels) or 0.0) > counted)

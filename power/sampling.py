"""Reads the meters of a node, each in its own time, and keeps what they said last."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from penstock.runtime import clock as clocks
from penstock.runtime import degraded, logs, tasks
from power.meters import port
from power.policy import energy, readings

T = TypeVar("T")

REGISTRY_LOST = "registry-lost"
METER_FAILED = "meter-failed"
METER_MISSING = "meter-missing"
MODES = (REGISTRY_LOST, METER_FAILED, METER_MISSING)

# A driver that hangs is told of after so many intervals (of a second at least).
_LATE_INTERVALS = 3
_CLOSE_S = 2.0


@dataclasses.dataclass(frozen=True)
class Look:
    """What came of the last look at a meter: readings, or why it has none. `at_s` is monotonic."""

    at_s: float
    found: tuple[readings.Reading, ...] = ()
    absent: str = ""
    failed: str = ""


class Sampler:
    """Reads each meter every `interval_s`. A meter that hangs holds up no other, and its readings are let go."""

    def __init__(
        self,
        meters: Sequence[port.Meter],
        clock: clocks.Clock,
        health: degraded.Degraded,
        *,
        interval_s: float,
        expected: Sequence[str] = (),
    ) -> None:
        self._meters, self._clock, self._health = meters, clock, health
        self._interval_s, self._expected = interval_s, frozenset(expected)
        self._late_s = _LATE_INTERVALS * max(interval_s, 1.0)
        self._log = logs.get("node")
        self._tasks: list[asyncio.Task[None]] = []
        self._busy: set[str] = set()
        self._looks: dict[str, Look] = {}
        self._counters: dict[str, energy.Counter] = {}

    async def start(self) -> None:
        """Begins to read."""
        self._tasks = [asyncio.create_task(self._follow(each), name=f"meter-{each.name}") for each in self._meters]

    async def stop(self) -> None:
        """Ends the reading. A meter that hangs is left to its thread, which ends with the process."""
        await tasks.cancel(self._tasks)
        self._tasks = []
        for each in self._meters:
            if each.name not in self._busy:
                try:
                    async with asyncio.timeout(_CLOSE_S):
                        await _in_thread(each.close)
                except TimeoutError:
                    self._log.warning("meter_not_closed", meter=each.name)

    @property
    def looked(self) -> bool:
        """Whether each meter was looked at."""
        return len(self._looks) == len(self._meters)

    @property
    def looks(self) -> Mapping[str, Look]:
        """The last look at each meter, by its name."""
        return self._looks

    @property
    def counters(self) -> Mapping[str, energy.Counter]:
        """Joules of each device since it was first seen."""
        return self._counters

    def current(self) -> Iterator[readings.Reading]:
        """What is known now; where the device tells no watts, the mean between the last two looks."""
        for look in self._looks.values():
            for each in look.found:
                counter = self._counters.get(each.device)
                watts = each.watts if each.watts is not None or counter is None else counter.watts
                yield dataclasses.replace(each, watts=None if each.fault else watts)

    def sums(self) -> readings.Sums:
        """Of the node."""
        nvml = self._looks.get("nvml")
        return readings.sums(self.current(), gpus_known=nvml is not None and not nvml.failed)

    async def _follow(self, meter: port.Meter) -> None:
        """A look each interval; a late one is waited for, so that a meter is used by one thread at a time."""
        while True:
            began_s = self._clock.monotonic_s()
            self._busy.add(meter.name)
            look = await self._look(meter)
            self._busy.discard(meter.name)
            self._took(meter, look)
            spent_s = self._clock.monotonic_s() - began_s
            await self._clock.sleep(max(0.0, self._interval_s - spent_s))

    async def _look(self, meter: port.Meter) -> Look:
        reading = asyncio.ensure_future(_in_thread(meter.read))
        late = asyncio.ensure_future(self._clock.sleep(self._late_s))
        try:
            await asyncio.wait((reading, late), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reason = f"{meter.name} has not answered for {self._late_s:g} s"
                self._took(meter, Look(self._clock.monotonic_s(), failed=reason))
            await asyncio.wait((reading,))
        finally:
            late.cancel()
            reading.cancel()
        return _outcome(reading, self._clock.monotonic_s())

    def _took(self, meter: port.Meter, look: Look) -> None:
        before = self._looks.get(meter.name)
        self._looks[meter.name] = look
        if look.absent and (before is None or before.absent != look.absent):
            self._log.info("meter_absent", meter=meter.name, reason=look.absent)
        elif look.found and (before is None or not before.found):
            self._log.info("meter_found", meter=meter.name, devices=[each.device for each in look.found])
        for each in look.found:
            known = energy.advance(self._counters.get(each.device), each, look.at_s)
            if known is not None:
                self._counters[each.device] = known
        self._judge()

    def _judge(self) -> None:
        failed = [look.failed for look in self._looks.values() if look.failed]
        failed += [each.fault for look in self._looks.values() for each in look.found if each.fault]
        self._say(METER_FAILED, failed)
        missing = {name: look.absent for name, look in self._looks.items() if look.absent}
        self._say(METER_MISSING, [f"{name}: {missing[name]}" for name in missing if name in self._expected])

    def _say(self, mode: str, reasons: Sequence[str]) -> None:
        if reasons:
            self._health.set(mode, "; ".join(reasons))
        else:
            self._health.clear(mode)


def _outcome(reading: asyncio.Future[list[readings.Reading]], now_s: float) -> Look:
    try:
        return Look(now_s, tuple(reading.result()))
    except port.AbsentError as exc:
        return Look(now_s, absent=str(exc))
    except Exception as exc:
        # A driver's binding may raise what it likes; the other meters go on.
        return Look(now_s, failed=str(exc) or type(exc).__name__)


async def _in_thread(call: Callable[[], T]) -> T:
    """The call's result, from a thread that holds up neither the loop nor, where it hangs, the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, problem: BaseException | None) -> None:
        if done.done():
            return
        if problem is not None:
            done.set_exception(problem)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        problem: BaseException | None = None
        try:
            result = call()
        except Exception as exc:
            problem = exc
        try:
            loop.call_soon_threadsafe(settle, result, problem)
        except RuntimeError:
            pass  # the loop has ended meanwhile

    threading.Thread(target=run, name="meter", daemon=True).start()
    return await done

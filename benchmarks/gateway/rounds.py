"""What is measured: shapes of load, in rounds that take the proxies in turn."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.gateway import processes

IDLE_S = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """One kind of load. `most` is the highest ratio to the peer's CPU time that is good enough."""

    name: str
    kind: str
    size_bytes: int
    requests: int
    at_once: int
    most: float


# Enough requests that the kernel's hundredths of a second are below 3 % of what is measured.
SHAPES = (
    Shape("unary 2 KB", "unary", 2_048, 20_000, 32, 0.35),
    Shape("unary 32 KB", "unary", 32_768, 6_000, 32, 0.6),
    Shape("unary 400 KB", "unary", 409_600, 600, 32, 0.9),
    Shape("stream of 100 chunks", "stream", 2_048, 600, 200, 0.65),
)
MORE_ENDPOINTS_US = 25.0


@dataclasses.dataclass(slots=True)
class Cell:
    """One proxy under one shape: CPU time per request (us) and latency (ms) of each round."""

    cpu_us: list[float] = dataclasses.field(default_factory=list)
    p50_ms: list[float] = dataclasses.field(default_factory=list)
    p99_ms: list[float] = dataclasses.field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Medians, and the lowest and highest CPU time."""
        return {
            "cpu_us": statistics.median(self.cpu_us),
            "cpu_us_min": min(self.cpu_us),
            "cpu_us_max": max(self.cpu_us),
            "p50_ms": statistics.median(self.p50_ms),
            "p99_ms": statistics.median(self.p99_ms),
        }


def measure(
    proxies: Sequence[processes.Proxy],
    load: processes.Load,
    shapes: Sequence[Shape],
    rounds: int,
    tell: Callable[[str], None],
) -> dict[str, dict[str, Cell]]:
    """Cells by shape and proxy. Each proxy is warmed up with every shape first; the order turns from round to round."""
    for each in proxies:
        for shape in shapes:
            load.run(each.url, shape.kind, shape.size_bytes, max(shape.at_once, shape.requests // 20), shape.at_once)
    cells = {shape.name: {each.name: Cell() for each in proxies} for shape in shapes}
    for number in range(rounds):
        shift = number % len(proxies)
        for shape in shapes:
            for each in (*proxies[shift:], *proxies[:shift]):
                tell(f"round {number + 1} of {rounds}: {shape.name}, {each.name}")
                before_s = each.cpu_s()
                result = load.run(each.url, shape.kind, shape.size_bytes, shape.requests, shape.at_once)
                cell = cells[shape.name][each.name]
                cell.cpu_us.append((each.cpu_s() - before_s) / shape.requests * 1e6)
                cell.p50_ms.append(result["p50_ms"])
                cell.p99_ms.append(result["p99_ms"])
    return cells


def idle_ms_per_s(proxies: Sequence[processes.Proxy]) -> dict[str, float]:
    """CPU time that each uses with nothing to do, which is part of all its other figures."""
    before = {each.name: (each.cpu_s(), time.monotonic()) for each in proxies}
    time.sleep(IDLE_S)
    return {
        each.name: (each.cpu_s() - before[each.name][0]) / (time.monotonic() - before[each.name][1]) * 1000
        for each in proxies
    }


def judge(cells: dict[str, dict[str, Cell]], shapes: Sequence[Shape], ours: str, peer: str) -> list[dict[str, Any]]:
    """For each shape: our median over the peer's, the range of the rounds' own ratios, and whether it is low enough."""
    found = []
    for shape in shapes:
        mine, theirs = cells[shape.name][ours], cells[shape.name][peer]
        pairs = [a / b for a, b in zip(mine.cpu_us, theirs.cpu_us, strict=True) if b]
        ratio = statistics.median(mine.cpu_us) / statistics.median(theirs.cpu_us)
        found.append(
            {
                "shape": shape.name,
                "ratio": ratio,
                "ratio_min": min(pairs),
                "ratio_max": max(pairs),
                "most": shape.most,
                "met": ratio <= shape.most,
            }
        )
    return found


def judge_endpoints(few: Cell, many: Cell) -> dict[str, Any]:
    """How much more CPU time a request costs among many endpoints, in us."""
    more_us = statistics.median(many.cpu_us) - statistics.median(few.cpu_us)
    pairs = [b - a for a, b in zip(few.cpu_us, many.cpu_us, strict=True)]
    return {
        "more_us": more_us,
        "more_us_min": min(pairs),
        "more_us_max": max(pairs),
        "most_us": MORE_ENDPOINTS_US,
        "met": more_us <= MORE_ENDPOINTS_US,
    }

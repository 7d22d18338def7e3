"""One policy on one workload, in a process of its own; and what is read from it."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

from benchmarks.routing import workloads
from penstock.workload import request
from router.policy import candidates, pickers, profiles, scorers, types
from simulator import scenario, simulation

WITHOUT = "default-without-"
_COSTS = ("wait_ms", "prefill_ms", "stream_ms", "stall_ms", "delay_ms", "evict_ms")
_TIES, _HOLDS = "same_within", "holds"
# What the default is made of: its costs, that nearly the same ones are the same, that requests wait at the gateway.
PARTS = (*_COSTS, _TIES, _HOLDS)
# A worker of the pool plays neighbouring jobs, which mostly share their arrivals.
_KEPT = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What to play: a policy's name, or `default-without-` and one of the default's parts."""

    told: scenario.Scenario
    workload: str
    policy: str
    seed: int


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """What is compared. Times in ms, shares from 0 to 1."""

    ttft_mean_ms: float
    ttft_p95_ms: float
    itl_p95_ms: float
    tpot_p95_ms: float
    e2e_mean_ms: float
    reuse: float
    good: float
    cpu_s: float = 0.0


def play(job: Job) -> Figures:
    """Plays a job and reads its figures."""
    told = job.told.model_copy(update={"seed": job.seed})
    figures = simulation.run(
        told, _arrivals(job.workload, job.seed, told.model_dump_json()), profile_of(job.policy)
    ).figures
    return read(figures)


def read(figures: dict[str, Any]) -> Figures:
    """The figures that are compared, of a run's."""
    return Figures(
        figures["ttft_ms"]["mean"],
        figures["ttft_ms"]["p95"],
        figures["itl_ms"]["p95"],
        figures["tpot_ms"]["p95"],
        figures["e2e_ms"]["mean"],
        figures["reuse_blocks"] or 0.0,
        figures["good"] / figures["requests"],
    )


@functools.lru_cache(maxsize=_KEPT)
def _read_trace(workload: str, seed: int, key: str) -> tuple[request.TraceRequest, ...]:
    return tuple(simulation.workload(scenario.Scenario.model_validate_json(key)))


def _arrivals(workload: str, seed: int, told: str) -> tuple[request.TraceRequest, ...]:
    """The requests of a workload; the speed is applied when they are played, so it is none of the key's."""
    found = scenario.Scenario.model_validate_json(told)
    return _read_trace(
        workload, seed, found.model_copy(update={"speed": 1.0, "gateways": scenario.Gateways()}).model_dump_json()
    )


def profile_of(name: str) -> profiles.Profile:
    """A profile of the router, or the default without one of its parts, all else as it is. Raises UnknownProfileError."""
    if not name.startswith(WITHOUT):
        return profiles.by_name(name)
    part = name.removeprefix(WITHOUT)
    if part not in PARTS:
        raise profiles.UnknownProfileError(f"the default has no part {part!r}: it has {', '.join(PARTS)}")
    whole = profiles.by_name(profiles.DEFAULT)
    if part == _HOLDS:
        return dataclasses.replace(whole, name=name, holds=False)
    return dataclasses.replace(whole, name=name, decide=functools.partial(_without, part))


def _without(part: str, request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    whole = profiles.default(request, observed, state)
    kept = [row for name, row in zip(whole.components, whole.scores, strict=True) if name != part]
    totals = [sum(values) for values in zip(*kept, strict=True)]
    matched = candidates.matched_tokens(observed, list(whole.candidates))
    within = 0.0 if part == _TIES else scorers.SAME_WITHIN
    best = pickers.nearly_lowest(totals, matched, within, state)
    return types.Decision(
        whole.candidates[best], matched[best], whole.candidates, (), (), f"without {part}", whole.state
    )


def scenarios(
    traces: pathlib.Path | None, gateways: int, names: tuple[str, ...]
) -> list[tuple[str, scenario.Scenario]]:
    """The named workloads at all their speeds. Raises FileNotFoundError where a trace is not there."""
    found = [each for each in workloads.WORKLOADS if not names or each.name in names]
    return [pair for each in found for pair in each.scenarios(traces, gateways)]

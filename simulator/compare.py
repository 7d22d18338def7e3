"""Several policies on the same arrivals, over several seeds, with confidence intervals."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from simulator import scenario, simulation

# Two-sided 95 % quantiles of Student's t by degrees of freedom, from 1.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
# Name of a figure: where it is in a result's figures.
FIGURES: dict[str, tuple[str, ...]] = {
    "ttft_mean_ms": ("ttft_ms", "mean"),
    "ttft_p50_ms": ("ttft_ms", "p50"),
    "ttft_p95_ms": ("ttft_ms", "p95"),
    "ttft_p99_ms": ("ttft_ms", "p99"),
    "itl_p95_ms": ("itl_ms", "p95"),
    "tpot_p95_ms": ("tpot_ms", "p95"),
    "e2e_mean_ms": ("e2e_ms", "mean"),
    "e2e_p95_ms": ("e2e_ms", "p95"),
    "goodput_rps": ("goodput_rps",),
    "requests": ("requests",),
    "completed": ("completed",),
    "reuse_blocks": ("reuse_blocks",),
    "imbalance": ("imbalance",),
    "preemptions": ("preemptions",),
    "joules": ("joules",),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """Mean over seeds and half the width of its 95 % interval; the latter is None for one seed."""

    mean: float
    half: float | None


def interval(values: Sequence[float]) -> Interval:
    """The mean of independent values, by Student's t."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None)
    freedom = len(values) - 1
    quantile = _T[freedom - 1] if freedom <= len(_T) else 1.96
    return Interval(mean, quantile * statistics.stdev(values) / math.sqrt(len(values)))


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One policy: its figures over all seeds, and by how much they differ from the first policy's, seed by seed."""

    policy: str
    figures: dict[str, Interval | None]
    differences: dict[str, Interval | None]

    @property
    def failed(self) -> bool:
        """Whether any request did not complete."""
        asked, completed = self.figures["requests"], self.figures["completed"]
        return asked is None or completed is None or completed.mean < asked.mean


def compare(
    told: scenario.Scenario,
    policies: Sequence[str],
    seeds: Sequence[int],
    on_done: Callable[[str, int], None] = lambda policy, seed: None,
) -> list[Row]:
    """Plays the scenario for each policy, in place of all that it names, and seed. Arrivals are the same for one seed.

    Raises scenario.ScenarioError for a policy that does not exist.
    """
    tolds = {policy: scenario.under(told, policy) for policy in policies}
    runs: dict[str, list[dict[str, Any]]] = {policy: [] for policy in policies}
    for seed in seeds:
        seeded = told.model_copy(update={"seed": seed})
        found = list(simulation.workload(seeded))
        for policy in policies:
            result = simulation.run(tolds[policy].model_copy(update={"seed": seed}), found)
            runs[policy].append(result.figures)
            on_done(policy, seed)
    first = runs[policies[0]]
    return [
        Row(
            policy,
            {name: _interval([_value(run, path) for run in runs[policy]]) for name, path in FIGURES.items()},
            {
                name: _interval(
                    [
                        _less(_value(run, path), _value(base, path))
                        for run, base in zip(runs[policy], first, strict=True)
                    ]
                )
                for name, path in FIGURES.items()
            },
        )
        for policy in policies
    ]


def _value(figures: dict[str, Any], path: tuple[str, ...]) -> float | None:
    found: Any = figures
    for key in path:
        found = found[key]
    return None if found is None else float(found)


def _less(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def _interval(values: Sequence[float | None]) -> Interval | None:
    """Unknown where any of the values is."""
    known = [value for value in values if value is not None]
    return interval(known) if len(known) == len(values) else None


def as_json(rows: Sequence[Row], seeds: Sequence[int]) -> dict[str, Any]:
    """The comparison, ready for JSON."""
    return {
        "seeds": list(seeds),
        "policies": {
            row.policy: {
                name: None
                if found is None
                else {"mean": found.mean, "ci95": found.half, "difference": _difference(row, name)}
                for name, found in row.figures.items()
            }
            for row in rows
        },
    }


def _difference(row: Row, name: str) -> dict[str, float | None] | None:
    found = row.differences[name]
    return None if found is None else {"mean": found.mean, "ci95": found.half}

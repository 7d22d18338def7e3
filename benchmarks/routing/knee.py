"""The highest speed of the conversation trace at which a policy keeps the targets."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from concurrent import futures

import click

from benchmarks.routing import play, workloads

TTFT_P95_MS = 2_000.0
ITL_P95_MS = 100.0
_LOW, _HIGH, _STEPS = 0.5, 8.0, 7
_WORKLOAD = workloads.WORKLOADS[0]


def show(pool: futures.Executor, traces: pathlib.Path | None, policies: Sequence[str], seeds: int) -> None:
    """Prints the knee of each policy, the highest mean first. Raises FileNotFoundError without the trace."""
    _, told = _WORKLOAD.scenarios(traces, 1)[0]
    step = (_HIGH - _LOW) / 2**_STEPS
    targets = f"TTFT p95 < {TTFT_P95_MS:g} ms and ITL p95 < {ITL_P95_MS:g} ms"
    click.echo(f"{_WORKLOAD.name}: highest speed with {targets}, to {step:.2f}x")
    search = functools.partial(_search, told)
    pairs = [(policy, seed) for policy in policies for seed in range(seeds)]
    found = dict(zip(pairs, pool.map(search, pairs), strict=True))
    for policy in sorted(policies, key=lambda name: -sum(found[name, seed] for seed in range(seeds))):
        each = [found[policy, seed] for seed in range(seeds)]
        click.echo(f"{policy:20} {sum(each) / len(each):.2f}x   ({', '.join(f'{one:.2f}' for one in each)})")


def _search(told: play.scenario.Scenario, pair: tuple[str, int]) -> float:
    """Bisection; a policy that keeps the targets at no speed has 0."""
    policy, seed = pair
    low, high = 0.0, _HIGH
    speed = _LOW
    for step in range(_STEPS + 1):
        figures = play.play(play.Job(told.model_copy(update={"speed": speed}), _WORKLOAD.name, policy, seed))
        if figures.ttft_p95_ms < TTFT_P95_MS and figures.itl_p95_ms < ITL_P95_MS:
            low = speed
        elif step == 0:
            return 0.0
        else:
            high = speed
        speed = (max(low, _LOW) + high) / 2
    return low

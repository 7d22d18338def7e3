"""The figures of a run."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy

from penstock.report import outcome, slo

QUANTILES = (50, 90, 95, 99)


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What a run leaves behind. `gaps_s`: the gaps between chunks of content of all requests, in s."""

    outcomes: Sequence[outcome.Outcome]
    gaps_s: Sequence[float]
    targets: slo.Slo | None
    bad_rows: int = 0
    interrupted: bool = False


def distribution_ms(values_s: Iterable[float | None]) -> dict[str, float | None]:
    """Mean and percentiles in ms of the known values; all None when there is none."""
    known = numpy.fromiter((value for value in values_s if value is not None), dtype=float) * 1000
    if known.size == 0:
        return {"mean": None, **{f"p{each}": None for each in QUANTILES}}
    found = numpy.percentile(known, QUANTILES)
    return {"mean": float(known.mean()), **{f"p{q}": float(v) for q, v in zip(QUANTILES, found, strict=True)}}


def wall_s(run: Run) -> float | None:
    """From the first request sent to the last answer's end; unknown when nothing was sent."""
    sent = [each.sent_s for each in run.outcomes if each.sent_s is not None]
    ends = [each.end_s for each in run.outcomes if each.end_s is not None]
    return max(ends) - min(sent) if sent and ends else None


def summarize(run: Run) -> dict[str, Any]:
    """Every figure of the run, ready for JSON. Latencies are of completed requests; unknown figures are None.

    `goodput_rps` counts requests that met every target, and all completed ones when there is no target.
    `reuse` is cached over prompt tokens of the answers whose usage names both.
    """
    done = [each for each in run.outcomes if each.completed]
    lasted_s = wall_s(run)
    good = sum(run.targets.met_by(each) for each in done) if run.targets else len(done)
    prompt, cached = _reuse(run.outcomes)
    generated = sum(_generated(each) for each in run.outcomes)
    errors = collections.Counter(each.error for each in run.outcomes if each.error is not None)
    return {
        "requests": len(run.outcomes),
        "completed": len(done),
        "errors": sum(errors.values()),
        "reuse": cached / prompt if prompt else None,
        "ttft_ms": distribution_ms(each.ttft_s for each in done),
        "itl_ms": distribution_ms(run.gaps_s),
        "e2e_ms": distribution_ms(each.e2e_s for each in done),
        "goodput_rps": good / lasted_s if lasted_s else None,
        "good": good,
        "slo_ms": _targets_ms(run.targets),
        "errors_by_kind": dict(errors.most_common()),
        "retries": sum(each.retries for each in run.outcomes),
        "bad_rows": run.bad_rows,
        "interrupted": run.interrupted,
        "wall_s": lasted_s,
        "completed_rps": len(done) / lasted_s if lasted_s else None,
        "output_tokens_per_s": generated / lasted_s if lasted_s else None,
        "prompt_tokens": prompt or None,
        "cached_tokens": cached if prompt else None,
        "output_tokens": generated,
        "lateness_ms": distribution_ms(each.late_s for each in run.outcomes),
        "endpoints": _endpoints(run.outcomes),
    }


def _reuse(outcomes: Sequence[outcome.Outcome]) -> tuple[int, int]:
    pairs = [
        (each.prompt_tokens, each.cached_tokens)
        for each in outcomes
        if each.prompt_tokens is not None and each.cached_tokens is not None
    ]
    return sum(prompt for prompt, _ in pairs), sum(cached for _, cached in pairs)


def _generated(found: outcome.Outcome) -> int:
    return found.chunks if found.completion_tokens is None else found.completion_tokens


def _targets_ms(targets: slo.Slo | None) -> dict[str, float] | None:
    if targets is None:
        return None
    limits = {"ttft": targets.ttft_s, "itl": targets.itl_s, "e2e": targets.e2e_s}
    return {name: limit * 1000 for name, limit in limits.items() if limit is not None}


def _endpoints(outcomes: Sequence[outcome.Outcome]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[outcome.Outcome]] = collections.defaultdict(list)
    for each in outcomes:
        if each.endpoint is not None:
            groups[each.endpoint].append(each)
    found = {}
    for name, group in sorted(groups.items()):
        prompt, cached = _reuse(group)
        done = [each for each in group if each.completed]
        found[name] = {
            "requests": len(group),
            "completed": len(done),
            "errors": sum(each.error is not None for each in group),
            "prompt_tokens": prompt or None,
            "reuse": cached / prompt if prompt else None,
            "ttft_ms": distribution_ms(each.ttft_s for each in done),
        }
    return found

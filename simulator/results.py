"""The figures of a simulation, under the keys of a replay's and a few more."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy

from penstock.api import types as api
from penstock.report import slo, summary
from simulator import scenario, tally, worker


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a simulation leaves behind. `figures` is ready for JSON."""

    scenario: scenario.Scenario
    figures: dict[str, Any]
    outcomes: Sequence[tally.Outcome]
    gaps: Sequence[tuple[numpy.ndarray, numpy.ndarray]]
    """Per class: gaps between tokens in s, sorted, and how many there are of each."""
    bins: dict[str, list[list[float]]]
    """Per worker and time bin: seconds of work, sequences x seconds, prompt tokens computed."""
    bin_s: float
    sent: Sequence[tuple[float, float]] = ()
    """KV that went from worker to worker: when it had arrived, s, and how much, bytes."""


def weighted_ms(values_s: numpy.ndarray, weights: numpy.ndarray) -> dict[str, float | None]:
    """Mean and percentiles in ms of sorted values with weights."""
    if not values_s.size:
        return summary.distribution_ms(())
    reached = numpy.cumsum(weights)
    total = float(reached[-1])
    found: dict[str, float | None] = {"mean": float((values_s * weights).sum()) / total * 1000}
    for quantile in summary.QUANTILES:
        place = min(int(numpy.searchsorted(reached, total * quantile / 100)), values_s.size - 1)
        found[f"p{quantile}"] = float(values_s[place]) * 1000
    return found


def targets_of(wanted: scenario.SloClass) -> slo.Slo:
    """The targets of a class, s."""
    limits = (wanted.ttft_ms, wanted.itl_ms, wanted.e2e_ms)
    return slo.Slo(*(None if limit is None else limit / 1000 for limit in limits))


def summarize(
    told: scenario.Scenario,
    kept: tally.Tally,
    workers: Sequence[worker.Worker],
    bin_s: float,
) -> Result:
    """All figures of a run."""
    outcomes = kept.outcomes
    outcomes.sort(key=lambda each: (each.due_s, each.line))
    gaps = [each.weighted() for each in kept.gaps_of]
    targets = [targets_of(each) for each in told.classes]
    figures = summary.summarize(summary.Run(outcomes, (), targets[0] if len(targets) == 1 else None))
    figures["itl_ms"] = weighted_ms(*_merged(gaps))
    if len(targets) > 1:
        good = sum(targets[each.group].met_by(each) for each in outcomes)
        figures["good"] = good
        figures["goodput_rps"] = good / figures["wall_s"] if figures["wall_s"] else None
    figures["tpot_ms"] = summary.distribution_ms(each.mean_itl_s for each in outcomes)
    figures["queue_ms"] = summary.distribution_ms(each.queued_s for each in outcomes)
    figures["reuse_blocks"] = _block_reuse(outcomes)
    figures["retries"] = kept.retries
    figures["preemptions"] = sum(each.preemptions for each in workers)
    figures["classes"] = {
        wanted.name: _class(wanted, targets[at], [each for each in outcomes if each.group == at], gaps[at], figures)
        for at, wanted in enumerate(told.classes)
    }
    if told.generators:
        figures["tenants"] = {each.name: _tenant(each.name, targets, outcomes, figures) for each in told.generators}
    end_s = max((each.end_s for each in outcomes if each.end_s is not None), default=0.0)
    _fleet(figures, workers, end_s)
    figures["pools"] = _pools(workers, end_s)
    figures["transfers"] = _transfers(kept)
    sent = [(each.end_s, each.bytes) for each in kept.transfers]
    return Result(told, figures, outcomes, gaps, {each.id: each.bins for each in workers}, bin_s, sent)


def _merged(gaps: Sequence[tuple[numpy.ndarray, numpy.ndarray]]) -> tuple[numpy.ndarray, numpy.ndarray]:
    if len(gaps) == 1:
        return gaps[0]
    values = numpy.concatenate([each[0] for each in gaps])
    weights = numpy.concatenate([each[1] for each in gaps])
    order = numpy.argsort(values, kind="stable")
    return values[order], weights[order]


def _block_reuse(outcomes: Sequence[tally.Outcome]) -> float | None:
    blocks = sum(each.blocks for each in outcomes)
    return sum(each.cached_blocks for each in outcomes) / blocks if blocks else None


def _class(
    wanted: scenario.SloClass,
    targets: slo.Slo,
    outcomes: Sequence[tally.Outcome],
    gaps: tuple[numpy.ndarray, numpy.ndarray],
    figures: dict[str, Any],
) -> dict[str, Any]:
    done = [each for each in outcomes if each.completed]
    good = sum(targets.met_by(each) for each in done)
    return {
        "requests": len(outcomes),
        "completed": len(done),
        "ttft_ms": summary.distribution_ms(each.ttft_s for each in done),
        "itl_ms": weighted_ms(*gaps),
        "tpot_ms": summary.distribution_ms(each.mean_itl_s for each in done),
        "e2e_ms": summary.distribution_ms(each.e2e_s for each in done),
        "queue_ms": summary.distribution_ms(each.queued_s for each in done),
        "reuse_blocks": _block_reuse(outcomes),
        "good": good,
        "goodput_rps": good / figures["wall_s"] if figures["wall_s"] else None,
        "attained": good / len(outcomes) if outcomes else None,
        "quantile": wanted.quantile,
    }


def _tenant(
    name: str, targets: Sequence[slo.Slo], outcomes: Sequence[tally.Outcome], figures: dict[str, Any]
) -> dict[str, Any]:
    """Figures of one generator's requests."""
    own = [each for each in outcomes if each.source == name]
    done = [each for each in own if each.completed]
    good = sum(targets[each.group].met_by(each) for each in done)
    return {
        "requests": len(own),
        "completed": len(done),
        "ttft_ms": summary.distribution_ms(each.ttft_s for each in done),
        "e2e_ms": summary.distribution_ms(each.e2e_s for each in done),
        "reuse_blocks": _block_reuse(own),
        "good": good,
        "goodput_rps": good / figures["wall_s"] if figures["wall_s"] else None,
    }


def _fleet(figures: dict[str, Any], workers: Sequence[worker.Worker], end_s: float) -> None:
    computed = [each.computed_tokens for each in workers]
    mean = sum(computed) / len(computed) if computed else 0.0
    figures["imbalance"] = max(computed) / mean if mean else None
    figures["worker_seconds"] = sum(each.up_s(end_s) for each in workers)
    figures["gpu_seconds"] = sum(each.up_s(end_s) * each.profile.tp for each in workers)
    joules = sum(each.energy_j(end_s) for each in workers)
    figures["joules"] = None if math.isnan(joules) else joules
    for each in workers:
        row = figures["endpoints"].setdefault(each.id, {"requests": 0})
        row["role"], row["pool"] = each.record.role, each.pool
        if each.record.role == api.ROLE_PREFILL:
            # Outcomes name the worker that an answer came from in the end.
            row["requests"] = each.requests
        row["computed_tokens"] = each.computed_tokens
        row["working_s"] = each.working_s
        row["preemptions"] = each.preemptions


def _pools(workers: Sequence[worker.Worker], end_s: float) -> dict[str, dict[str, Any]]:
    """Figures of each pool, its joined workers included."""
    pools: dict[str, list[worker.Worker]] = {}
    for each in workers:
        pools.setdefault(each.pool, []).append(each)
    return {name: _pool(group, end_s) for name, group in pools.items()}


def _pool(group: Sequence[worker.Worker], end_s: float) -> dict[str, Any]:
    up_s = sum(each.up_s(end_s) for each in group)
    working_s = sum(each.working_s for each in group)
    joules = sum(each.energy_j(end_s) for each in group)
    return {
        "model": group[0].record.model,
        "role": group[0].record.role,
        "profile": group[0].profile.name,
        "tp": group[0].profile.tp,
        "workers": len(group),
        "requests": sum(each.requests for each in group),
        "computed_tokens": sum(each.computed_tokens for each in group),
        "working_s": working_s,
        "utilization": working_s / up_s if up_s else None,
        "preemptions": sum(each.preemptions for each in group),
        "sent_bytes": sum(each.sent_bytes for each in group),
        "received_bytes": sum(each.received_bytes for each in group),
        "transfer_s": sum(each.transfer_s for each in group),
        "worker_seconds": up_s,
        "gpu_seconds": sum(each.up_s(end_s) * each.profile.tp for each in group),
        "joules": None if math.isnan(joules) else joules,
    }


def _transfers(kept: tally.Tally) -> dict[str, Any]:
    """KV that went from worker to worker; `handover_ms` is the time from first to second token where that came elsewhere."""
    return {
        "count": len(kept.transfers),
        "bytes": sum(each.bytes for each in kept.transfers),
        "seconds": sum(each.seconds for each in kept.transfers),
        "transfer_ms": summary.distribution_ms(each.seconds for each in kept.transfers),
        "handover_ms": summary.distribution_ms(kept.handovers),
    }

"""From measurements to an engine profile."""

from __future__ import annotations

import statistics

from controller.calibrate import measure
from penstock import perf
from penstock.perf import fit

_LEAST_POINTS = 10


def job(found: measure.Measured, profile: dict[str, object], chunk_tokens: int) -> fit.Job:
    """What is fitted. `profile` holds the fields that are not measured here. Raises measure.CalibrateError."""
    points = [
        *(fit.prefill_point(x.uncached_tokens, x.cached_tokens, chunk_tokens, x.measured_ms) for x in found.prefills),
        *(fit.decode_point(x.seqs, x.kv_tokens, x.measured_ms) for x in found.decodes),
    ]
    if len(points) < _LEAST_POINTS or not found.prefills or not found.decodes:
        raise measure.CalibrateError(
            f"{len(found.prefills)} prefills and {len(found.decodes)} batches were measured; it takes {_LEAST_POINTS}. "
            "A batch is left out where hardly any tokens were generated together: the server runs fewer at once, does not know "
            "ignore_eos, or is busy"
        )
    start = _start(found)
    # A step's fixed cost and the reading of the weights pass for each other, and so do a token's time in the frontend and in
    # the engine, unless there are prompts that the frontend had to read and the engine had not.
    if not found.cached_known:
        del start["frontend_ms_per_token"]
    return fit.Job(profile, points, start, frozenset({"c"}), robust=True)


def _start(found: measure.Measured) -> dict[str, float]:
    """Rough values, from which the search begins."""
    step_ms = min(each.measured_ms for each in found.decodes)
    first_ms = min(each.measured_ms for each in found.prefills)
    longest = max(found.prefills, key=lambda each: each.uncached_tokens)
    slope = max((longest.measured_ms - first_ms) / max(1, longest.uncached_tokens), 1e-4)
    kv = statistics.fmean(each.kv_tokens for each in found.decodes)
    return {
        "c": 0.0,
        "w0": 0.8 * step_ms,
        "b": 0.7 * slope,
        "s": 0.02 * step_ms,
        "kappa": max(0.1 * step_ms / max(1.0, kv), 1e-9),
        "q": max(0.3 * slope / max(1, longest.uncached_tokens), 1e-10),
        "frontend_ms": max(0.1, first_ms - step_ms),
        "frontend_ms_per_token": 0.1 * slope,
    }


def profile(found: measure.Measured, fields: dict[str, object], chunk_tokens: int) -> perf.EngineProfile:
    """The fitted profile, with its errors. Raises measure.CalibrateError."""
    return fit.fit(job(found, fields, chunk_tokens))

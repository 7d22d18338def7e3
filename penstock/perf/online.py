"""Online calibration of what a router reads of an engine: from what the engine reports while it serves.

Prefills and decode steps are learned apart, in the linear form of `types.EngineSpeed`:

    prefill ms = base + per_token * uncached + per_token2 * uncached * (cached + uncached / 2)
    step ms    = step_base + per_seq * (sequences - 1) + per_kv_token * KV tokens

Nothing here looks at a clock: callers give what was measured.
"""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Iterable, Sequence

from penstock.api import types
from penstock.perf import recursive, step_model

# Fields of `types.EngineSpeed`, in the order of the terms.
PREFILL = ("base_ms", "ms_per_token", "ms_per_token2")
STEP = ("step_base_ms", "ms_per_seq", "ms_per_kv_token")
# Of the last measurements of a part, by which a speed is judged.
_RECENT = 32
_ENOUGH = 24
# What was learned takes the place of what is used where it is right to this, and the other is off by so much and by twice
# as much: then a gateway's choices differ, and a speed does not change to and fro.
_RIGHT_WITHIN = 0.2
_OFF_BY = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """What was learned of one engine. A coefficient is None where the observations do not tell it."""

    base_ms: float | None
    ms_per_token: float | None
    ms_per_token2: float | None
    step_base_ms: float | None
    ms_per_seq: float | None
    ms_per_kv_token: float | None
    prefill: recursive.Estimate
    step: recursive.Estimate

    def applied(self, speed: types.EngineSpeed) -> types.EngineSpeed:
        """`speed`, with what was learned in place of what was assumed."""
        return self.part(speed, (*PREFILL, *STEP))

    def part(self, speed: types.EngineSpeed, names: Iterable[str]) -> types.EngineSpeed:
        """`speed`, with these of its coefficients as learned."""
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        if not found.get("ms_per_token", 1.0):
            # A prompt's tokens cost something: zero only says that the observations had too few of them.
            del found["ms_per_token"]
        return speed.model_copy(update=found)


class Calibrator:
    """Learns one engine. Feed it measurements, ask for the calibration."""

    def __init__(self) -> None:
        self._prefill = recursive.Fit(3)
        self._step = recursive.Fit(3)
        self._recent: dict[tuple[str, ...], collections.deque[tuple[Sequence[float], float]]] = {
            PREFILL: collections.deque(maxlen=_RECENT),
            STEP: collections.deque(maxlen=_RECENT),
        }
        self.observations = 0

    def prefill(self, uncached_tokens: int, cached_tokens: int, measured_ms: float) -> bool:
        """One prefill that did not wait: from its arrival, or its admission, to its first token. False if rejected."""
        if uncached_tokens < 1 or cached_tokens < 0:
            return False
        pairs = step_model.attention_pairs(uncached_tokens, cached_tokens)
        return self._observe(self._prefill, PREFILL, (1.0, uncached_tokens, pairs), measured_ms)

    def step(self, sequences: float, kv_tokens: float, measured_ms: float) -> bool:
        """Mean time of steps that only decode, with so many sequences and KV tokens. False if rejected."""
        if sequences < 1 or kv_tokens < 0:
            return False
        return self._observe(self._step, STEP, (1.0, sequences - 1.0, kv_tokens), measured_ms)

    def _observe(self, fit: recursive.Fit, part: tuple[str, ...], row: Sequence[float], measured_ms: float) -> bool:
        self.observations += 1
        if measured_ms > 0:
            # Also what is rejected: when an engine changes, that is the first sign.
            self._recent[part].append((row, measured_ms))
        return fit.observe(row, measured_ms)

    def improved(self, speed: types.EngineSpeed) -> types.EngineSpeed | None:
        """`speed` with what was learned, in those parts that it is clearly better in; None where there are none.

        Judged by the last measurements: a part is taken where its median error is at most half of what `speed` has.
        """
        learned, found = self.calibration, speed
        for part, recent in self._recent.items():
            candidate = learned.part(found, part)
            if len(recent) < _ENOUGH or candidate == found:
                continue
            new, old = _error(candidate, part, recent), _error(found, part, recent)
            if new <= _RIGHT_WITHIN and old >= max(_OFF_BY, 2 * new):
                found = candidate
        return None if found == speed else found

    @property
    def calibration(self) -> Calibration:
        """What is known by now."""
        prefill, step = self._prefill.estimate, self._step.estimate
        base, per_token, per_pair = prefill.coefficients
        step_base, per_seq, per_kv = step.coefficients
        return Calibration(base, per_token, per_pair, step_base, per_seq, per_kv, prefill, step)


def _error(speed: types.EngineSpeed, part: Sequence[str], measured: Iterable[tuple[Sequence[float], float]]) -> float:
    """Median relative error."""
    values: list[float] = [getattr(speed, name) for name in part]
    off = [sum(value * term for value, term in zip(values, row, strict=True)) / ms - 1.0 for row, ms in measured]
    return statistics.median(map(abs, off))

"""Online calibration of what a router reads of an engine: from what the engine reports while it serves.

Prefills and decode steps are learned apart, in the linear form of `types.EngineSpeed`:

    prefill ms = base + per_token * uncached + per_token2 * uncached * (cached + uncached / 2)
    step ms    = step_base + per_seq * (sequences - 1) + per_kv_token * KV tokens

Nothing here looks at a clock: callers give what was measured.
"""

from __future__ import annotations

import dataclasses

from penstock.api import types
from penstock.perf import recursive, step_model


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
        names = ("base_ms", "ms_per_token", "ms_per_token2", "step_base_ms", "ms_per_seq", "ms_per_kv_token")
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

    def prefill(self, uncached_tokens: int, cached_tokens: int, measured_ms: float) -> bool:
        """One prefill that did not wait: from its arrival, or its admission, to its first token. False if rejected."""
        if uncached_tokens < 1 or cached_tokens < 0:
            return False
        pairs = step_model.attention_pairs(uncached_tokens, cached_tokens)
        return self._prefill.observe((1.0, uncached_tokens, pairs), measured_ms)

    def step(self, sequences: float, kv_tokens: float, measured_ms: float) -> bool:
        """Mean time of steps that only decode, with so many sequences and KV tokens. False if rejected."""
        if sequences < 1 or kv_tokens < 0:
            return False
        return self._step.observe((1.0, sequences - 1.0, kv_tokens), measured_ms)

    @property
    def calibration(self) -> Calibration:
        """What is known by now."""
        prefill, step = self._prefill.estimate, self._step.estimate
        base, per_token, per_pair = prefill.coefficients
        step_base, per_seq, per_kv = step.coefficients
        return Calibration(base, per_token, per_pair, step_base, per_seq, per_kv, prefill, step)

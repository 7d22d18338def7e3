"""Power of an engine's accelerators by what they do.

Constants are those of research on A100, H100 and H200 fleets: idle and prefill power from splitwise-sim (ISCA 2024) and
powertrace-sim; decoding by concurrency as P(b) = low + (high - low) / (1 + exp(-(log2 b - middle))), which was fitted to
ML.ENERGY's measurements in vLLM's semantic-router fleet simulator. Watts of one accelerator at full clocks.
"""

from __future__ import annotations

import dataclasses
import functools
import math

from penstock import perf


@dataclasses.dataclass(frozen=True)
class Draw:
    """Watts of all accelerators of one engine."""

    idle_w: float
    prefill_w: float
    decode_low_w: float
    decode_high_w: float
    middle: float

    def decode_w(self, sequences: int) -> float:
        """While `sequences` decode."""
        return _decode_w(self, sequences)

    def mixed_w(self, sequences: int, prefill_share: float) -> float:
        """In a step of which `prefill_share` goes to prompts, weighted by time."""
        if prefill_share >= 1.0 or not sequences:
            return self.prefill_w
        return prefill_share * self.prefill_w + (1.0 - prefill_share) * _decode_w(self, sequences)


@functools.lru_cache(maxsize=65_536)
def _decode_w(draw: Draw, sequences: int) -> float:
    rise = 1.0 / (1.0 + math.exp(-(math.log2(max(1, sequences)) - draw.middle)))
    return draw.decode_low_w + (draw.decode_high_w - draw.decode_low_w) * rise


# One accelerator, by the beginning of its name.
_DRAWS = {
    "a100": Draw(85.0, 420.0, 175.0, 385.0, 2.5),
    "h100": Draw(74.0, 700.0, 300.0, 600.0, 4.2),
    "h200": Draw(75.0, 700.0, 137.0, 300.0, 4.2),
}


def of(profile: perf.EngineProfile) -> Draw | None:
    """The draw of an engine with this profile; None where its accelerator's power is not known."""
    for name, one in _DRAWS.items():
        if profile.accelerator.lower().startswith(name):
            count = profile.tp
            return Draw(
                one.idle_w * count,
                one.prefill_w * count,
                one.decode_low_w * count,
                one.decode_high_w * count,
                one.middle,
            )
    return None

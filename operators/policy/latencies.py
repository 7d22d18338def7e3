"""Whether a new revision is slower than the one before it, by what both say of their requests. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from operators.policy.rollout import Verdict

# Fewer requests than this on either side say nothing about a tail.
LEAST = 50
# The new revision's quantile may be so much higher: less lies within what two equal halves of a fleet differ by.
TOLERANCE = 1.25


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Requests by upper bound of their latency, s (not cumulative); the last bound is infinite."""

    counts: Mapping[float, float]

    @property
    def total(self) -> float:
        """Requests."""
        return sum(self.counts.values())

    def less(self, before: Histogram) -> Histogram:
        """What came since `before`. A counter that fell is a process that started anew: all of it is new."""
        if any(self.counts.get(bound, 0.0) < count for bound, count in before.counts.items()):
            return self
        return Histogram({bound: count - before.counts.get(bound, 0.0) for bound, count in self.counts.items()})

    def plus(self, other: Histogram) -> Histogram:
        """Both together."""
        bounds = {*self.counts, *other.counts}
        return Histogram({bound: self.counts.get(bound, 0.0) + other.counts.get(bound, 0.0) for bound in bounds})

    def quantile_s(self, quantile: float) -> float | None:
        """The quantile, linear within a bucket; None without requests."""
        wanted, seen, low = self.total * quantile, 0.0, 0.0
        if wanted <= 0:
            return None
        for bound, count in sorted(self.counts.items()):
            if seen + count >= wanted and count > 0:
                return low if math.isinf(bound) else low + (bound - low) * (wanted - seen) / count
            seen, low = seen + count, bound if not math.isinf(bound) else low
        return low


@dataclasses.dataclass(frozen=True)
class Target:
    """A target of the deployment: which latency, its quantile and its limit, s."""

    name: str
    quantile: float
    limit_s: float


def compare(targets: Sequence[Target], old: Mapping[str, Histogram], new: Mapping[str, Histogram]) -> Verdict:
    """Worse where a target is missed by the new revision, and by clearly more than by the old one."""
    known = False
    for target in targets:
        before, after = old.get(target.name), new.get(target.name)
        if before is None or after is None or min(before.total, after.total) < LEAST:
            continue
        was_s, is_s = before.quantile_s(target.quantile), after.quantile_s(target.quantile)
        if was_s is None or is_s is None:
            continue
        known = True
        if is_s > target.limit_s and is_s > was_s * TOLERANCE:
            return Verdict.WORSE
    return Verdict.GOOD if known else Verdict.UNKNOWN

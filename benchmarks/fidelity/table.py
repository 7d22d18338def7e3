"""Two sets of figures side by side: how far the prediction is from what was measured."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

LATENCIES = ("ttft_ms", "e2e_ms")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One figure. `most`: the difference that counts as agreement, as a share of what was measured."""

    run: str
    figure: str
    measured: float
    predicted: float
    most: float | None

    @property
    def error(self) -> float:
        """Relative difference of the prediction."""
        return self.predicted / self.measured - 1.0

    @property
    def met(self) -> bool | None:
        """Whether they agree; None where nothing is asked."""
        return None if self.most is None else abs(self.error) <= self.most

    def cells(self) -> tuple[str, ...]:
        """As the table prints it."""
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        most = "" if self.most is None else f"{self.most:.0%}"
        return (
            self.run,
            self.figure,
            f"{self.measured:,.1f}",
            f"{self.predicted:,.1f}",
            f"{self.error:+.1%}",
            most,
            verdict,
        )

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"error": self.error, "met": self.met}


HEAD = ("run", "figure, ms", "measured", "simulated", "difference", "allowed", "")


def compare(
    run: str, measured: Mapping[str, Any], predicted: Mapping[str, Any], allowed: Mapping[str, float]
) -> list[Row]:
    """Rows for the mean and the quantiles of `allowed` of both latencies; the mean is shown, not judged."""
    return [
        Row(run, f"{name.removesuffix('_ms').upper()} {figure}", measured[name][figure], predicted[name][figure], most)
        for name in LATENCIES
        for figure, most in (("mean", None), *allowed.items())
    ]


def error_of_error(measured: Sequence[float], predicted: Sequence[float]) -> float:
    """Standard error of the relative difference between the two means; infinite for fewer than two of either."""
    if min(len(measured), len(predicted)) < 2:
        return math.inf
    parts = [statistics.stdev(each) / statistics.fmean(each) / math.sqrt(len(each)) for each in (measured, predicted)]
    return math.hypot(*parts) * statistics.fmean(predicted) / statistics.fmean(measured)


# Means that differ by less are a tie: two plays of one policy on real engines differ by that much.
TIE = 0.05
# A predicted latency may be off by so much, and with it what lies between two of them.
OFF = 0.2


def orders(measured: Mapping[str, Sequence[float]], predicted: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Each pair of names, the better by the mean of its rounds first, and what the prediction says of them.

    `same` order, a `tie` (in both the two differ by less than `TIE`), `level` (they do in the prediction, which says nothing
    of their order, and differ by less than `OFF` as measured), the `OTHER` one, or `unsettled`: the prediction has the other
    order, and the measured rounds themselves do not agree on one.
    """
    means = {name: statistics.fmean(rounds) for name, rounds in measured.items()}
    ranked = sorted(means, key=means.__getitem__)
    return [
        (better, worse, _verdict(better, worse, measured, predicted))
        for at, better in enumerate(ranked)
        for worse in ranked[at + 1 :]
    ]


def _verdict(better: str, worse: str, measured: Mapping[str, Sequence[float]], predicted: Mapping[str, float]) -> str:
    means = statistics.fmean(measured[better]), statistics.fmean(measured[worse])
    found = _order(means, (predicted[better], predicted[worse]))
    agreed = all(first < second for first, second in zip(measured[better], measured[worse], strict=True))
    return "unsettled" if found == "OTHER" and not agreed else found


def _order(measured: tuple[float, float], predicted: tuple[float, float]) -> str:
    if predicted[0] < predicted[1]:
        return "same"
    if not _within(TIE, predicted) or not _within(OFF, measured):
        return "OTHER"
    return "tie" if _within(TIE, measured) else "level"


def _within(share: float, pair: tuple[float, float]) -> bool:
    return max(pair) < (1.0 + share) * min(pair) or max(pair) == min(pair)

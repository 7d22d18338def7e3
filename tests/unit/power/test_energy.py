"""Joules and watts from energy counters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from power.policy import energy, readings


def reading(joules: float | None, wrap_j: float | None = None) -> readings.Reading:
    """Of a counter."""
    return readings.Reading("d", "cpu", joules=joules, wrap_j=wrap_j)


BEFORE = energy.Counter(10.0, 900.0, total_j=50.0, watts=7.0)


@pytest.mark.parametrize(
    ("known", "now", "at_s", "total_j", "watts"),
    [
        (None, reading(900.0), 10.0, 0.0, None),
        (BEFORE, reading(920.0), 12.0, 70.0, 10.0),
        (BEFORE, reading(920.0, 262_143.0), 12.0, 70.0, 10.0),
        (BEFORE, reading(100.0, 10_000.0), 12.0, 150.0, None),
        (energy.Counter(10.0, 20_000.0, 50.0), reading(9_000.0), 12.0, 50.0, None),
        (BEFORE, reading(100.0, 8_500.0), 12.0, 7_750.0, 3_850.0),
        (BEFORE, reading(30.0), 12.0, 80.0, None),
        (BEFORE, reading(30.0, 262_143.0), 12.0, 80.0, None),
        (energy.Counter(10.0, 5e8, 50.0), reading(5e8 - 1.0), 12.0, 50.0, None),
        (BEFORE, reading(900_000.0), 12.0, 50.0, None),
        (BEFORE, reading(920.0, 1_000.0), 12.0, 50.0, None),
    ],
    ids=[
        "first",
        "grown",
        "grown, may wrap",
        "fell, too far to have gone around",
        "fell, too much to be new",
        "gone around",
        "begun anew",
        "begun anew, may wrap",
        "dipped",
        "leapt",
        "may have gone around twice",
    ],
)
def test_a_counter(
    known: energy.Counter | None, now: readings.Reading, at_s: float, total_j: float, watts: float | None
) -> None:
    """What was drawn is counted once; a mean is told only where it is known."""
    after = energy.advance(known, now, at_s)
    assert after is not None and after.total_j == pytest.approx(total_j)
    assert after.watts == (None if watts is None else pytest.approx(watts))


def test_without_counter_or_time_nothing_is_learned() -> None:
    """A device without one, and a second look at the same moment, change nothing."""
    assert energy.advance(None, reading(None), 1.0) is None
    assert energy.advance(BEFORE, reading(None), 12.0) is BEFORE
    assert energy.advance(BEFORE, reading(950.0), 10.0) is BEFORE


@given(st.lists(st.integers(0, 500), min_size=1, max_size=50), st.integers(0, 99_999))
def test_the_sum_is_what_was_drawn(drawn: list[int], start: int) -> None:
    """However often the counter goes around, nothing is lost or counted twice."""
    wrap = 100_000
    known, raw = energy.advance(None, reading(start, wrap), 0.0), start
    for second, joules in enumerate(drawn, 1):
        raw = (raw + joules) % wrap
        known = energy.advance(known, reading(raw, wrap), float(second))
    assert known is not None and known.total_j == pytest.approx(sum(drawn))

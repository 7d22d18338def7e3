"""Intervals over seeds."""

import pytest

from simulator import compare


def test_intervals_are_students() -> None:
    """Worked by hand: 1, 2, 3 have a standard error of 0.5774, and t is 4.303 with two degrees of freedom."""
    found = compare.interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.303 / 3**0.5)


def test_one_value_has_no_interval() -> None:
    """Unknown is not zero."""
    assert compare.interval([5.0]) == compare.Interval(5.0, None)

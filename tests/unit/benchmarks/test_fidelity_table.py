"""What the fidelity benchmark says of the order of policies."""

from __future__ import annotations

import pytest

from benchmarks.fidelity import table


@pytest.mark.parametrize(
    ("predicted", "said"),
    [
        ({"a": 90.0, "b": 100.0}, "same"),
        # Whatever is measured, the same order is the same order.
        ({"a": 99.9, "b": 100.0}, "same"),
        ({"a": 100.0, "b": 97.0}, "tie"),
        ({"a": 100.0, "b": 100.0}, "tie"),
        ({"a": 100.0, "b": 90.0}, "OTHER"),
    ],
)
def test_pairs_that_are_nearly_the_same_have_no_order(predicted: dict[str, float], said: str) -> None:
    """Two that differ by 4 % in reality: the simulator may have them the other way round where it finds as little."""
    assert table.orders({"b": [104.0], "a": [100.0]}, predicted) == [("a", "b", said)]


def test_a_clear_difference_is_predicted_or_missed() -> None:
    """What differs by 20 % in reality is no tie, however near the simulator has it."""
    measured = {"c": [90.0, 90.0], "a": [99.0, 101.0], "b": [115.0, 125.0]}
    assert table.orders(measured, {"a": 100.0, "b": 99.0, "c": 80.0}) == [
        ("c", "a", "same"),
        ("c", "b", "same"),
        ("a", "b", "OTHER"),
    ]


def test_rounds_that_do_not_agree_settle_nothing() -> None:
    """Of two plays each policy was the better in one: no order of them can be missed."""
    measured = {"a": [100.0, 200.0], "b": [130.0, 180.0]}
    assert table.orders(measured, {"a": 120.0, "b": 100.0}) == [("a", "b", "unsettled")]
    assert table.orders(measured, {"a": 100.0, "b": 120.0}) == [("a", "b", "same")]

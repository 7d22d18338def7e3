"""Targets as a person writes them, and which requests meet them."""

import pytest

from penstock.report import outcome, slo


@pytest.mark.parametrize(
    ("text", "wanted"), [("500ms", 0.5), ("1.5s", 1.5), ("20", 0.02), (" 2 s", 2.0), ("0.5ms", 0.0005)]
)
def test_duration(text: str, wanted: float) -> None:
    """Seconds and milliseconds by unit; a plain number is milliseconds."""
    assert slo.duration_s(text) == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["", "ms", "-1s", "0", "1m", "nan", "inf", "1 2"])
def test_a_wrong_duration_is_named(text: str) -> None:
    """What is not a duration above zero is refused, quoted."""
    with pytest.raises(ValueError, match="not a duration"):
        slo.duration_s(text)


def test_targets() -> None:
    """Each target goes to its own limit."""
    assert slo.parse("ttft=500ms, itl=50,e2e=10s") == slo.Slo(0.5, 0.05, 10.0)


@pytest.mark.parametrize("text", ["ttft", "tpot=1", "ttft=1,ttft=2", "", "itl=x"])
def test_wrong_targets_are_refused(text: str) -> None:
    """Unknown, doubled and unreadable targets are errors."""
    with pytest.raises(ValueError, match=r"target|twice|duration"):
        slo.parse(text)


def answered(ttft_s: float = 0.1, gap_s: float = 0.01, error: str | None = None) -> outcome.Outcome:
    return outcome.Outcome(
        1, "t", 0.0, 1, sent_s=0.0, first_s=ttft_s, end_s=1.0, gap_sum_s=gap_s * 2, gap_count=2, error=error
    )


@pytest.mark.parametrize(
    ("found", "good"),
    [
        (answered(), True),
        (answered(ttft_s=0.6), False),
        (answered(gap_s=0.06), False),
        (answered(error="cut"), False),
        (outcome.Outcome(1, "t", 0.0, 1, sent_s=0.0), False),
    ],
)
def test_good_is_whole_and_within_every_limit(found: outcome.Outcome, good: bool) -> None:
    """One limit missed, an error or no end makes a request not good."""
    assert slo.parse("ttft=500ms,itl=50ms").met_by(found) is good

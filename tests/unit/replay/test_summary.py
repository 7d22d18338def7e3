"""The figures of a run from its outcomes."""

import array

import pytest

from controller.replay import html
from penstock.report import outcome, slo, summary


def run_of(*outcomes: outcome.Outcome, targets: slo.Slo | None = None) -> summary.Run:
    return summary.Run(outcomes, array.array("d", [0.01, 0.03]), targets, bad_rows=1)


def whole(number: int, endpoint: str = "a:1") -> outcome.Outcome:
    return outcome.Outcome(
        number,
        "t",
        due_s=0.0,
        input_tokens=10,
        sent_s=0.001,
        first_s=0.001 + 0.1 * number,
        end_s=2.001,
        status=200,
        endpoint=endpoint,
        prompt_tokens=10,
        cached_tokens=4,
        completion_tokens=5,
    )


def test_figures() -> None:
    """Counts, percentiles, reuse and goodput of two whole answers and one failed."""
    failed = outcome.Outcome(9, "t", 0.0, 10, sent_s=0.001, end_s=1.0, error="cut", endpoint="b:1")
    figures = summary.summarize(run_of(whole(1), whole(3, "b:1"), failed, targets=slo.parse("ttft=200ms")))
    assert (figures["requests"], figures["completed"], figures["errors"]) == (3, 2, 1)
    assert figures["reuse"] == pytest.approx(0.4)
    assert figures["ttft_ms"]["mean"] == pytest.approx(200)
    assert figures["ttft_ms"]["p50"] == pytest.approx(200)
    assert figures["itl_ms"]["p50"] == pytest.approx(20)
    assert figures["wall_s"] == pytest.approx(2.0)
    assert figures["goodput_rps"] == pytest.approx(0.5)
    assert figures["output_tokens_per_s"] == pytest.approx(5.0)
    assert figures["errors_by_kind"] == {"cut": 1}
    assert {name: each["requests"] for name, each in figures["endpoints"].items()} == {"a:1": 1, "b:1": 2}
    assert figures["lateness_ms"]["p99"] == pytest.approx(1.0)


def test_unknown_is_not_zero() -> None:
    """A run in which nothing came back has no latency, no reuse and no rate; none of them is 0."""
    figures = summary.summarize(summary.Run([], array.array("d"), None))
    assert figures["requests"] == 0
    assert figures["reuse"] is None
    assert figures["goodput_rps"] is None
    assert figures["ttft_ms"] == {"mean": None, "p50": None, "p90": None, "p95": None, "p99": None}


@pytest.mark.parametrize("outcomes", [(), (whole(1), whole(2))])
def test_page_needs_nothing_from_elsewhere(outcomes: tuple[outcome.Outcome, ...]) -> None:
    """The report has no script and no address, and names from outside are escaped."""
    odd = outcome.Outcome(1, "<b>", 0.0, 1, sent_s=0.0, first_s=0.1, end_s=1.0, endpoint="<script>x</script>")
    run = run_of(*outcomes, odd) if outcomes else run_of()
    page = html.page(run, summary.summarize(run))
    for word in ("<script", "http:", "https:", "src=", "@import", "url("):
        assert word not in page
    assert page.count("<svg") == (5 if outcomes else 1)

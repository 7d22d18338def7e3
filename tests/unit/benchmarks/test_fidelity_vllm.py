"""What `benchmarks.fidelity vllm` makes of its figures, without an engine."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from benchmarks.fidelity import pace, table, vllm
from penstock import perf
from penstock.workload import request


def figures(ttft_ms: float, e2e_ms: float) -> dict[str, Any]:
    """Of one play."""
    return {
        name: {"mean": value, "p50": value, "p95": 2 * value}
        for name, value in (("ttft_ms", ttft_ms), ("e2e_ms", e2e_ms))
    }


def found(before: float, after: float) -> vllm.Found:
    """One engine whose middle TTFT was 40 ms, and two under three policies."""
    rounds = {"default": [40.0, 42.0], "least-request": [50.0, 70.0], "round-robin": [60.0, 60.0]}
    order = vllm.Order(
        "sessions",
        {name: [figures(each, 2 * each) for each in rows] for name, rows in rounds.items()},
        {
            name: [figures(each, 2 * each)]
            for name, each in (("default", 30.0), ("least-request", 50.0), ("round-robin", 45.0))
        },
    )
    alone = [figures(before, 160.0), figures(after, 160.0)]
    played = [figures(39.0, 158.0), figures(41.0, 162.0)]
    return vllm.Found(perf.load_profile("cpu-tiny"), played, alone, [order], {"sessions": [1.0, 1.1]})


def test_means_are_compared() -> None:
    """36 and 48 ms predict 42 where 39 and 41 were measured."""
    rows = {row.figure: row for row in vllm.rows(found(36.0, 48.0))}
    assert (rows["TTFT p50"].measured, rows["TTFT p50"].predicted) == (40.0, 42.0) and rows["TTFT p50"].met is True
    assert rows["E2E p95"].predicted == 320.0


def test_a_verdict_within_the_figures_own_spread_is_unsure() -> None:
    """52 of 40 ms misses 20 %, for sure, and 49 does where the predictions do not agree: perhaps."""
    for before, after, unsure in ((52.0, 52.2, False), (41.0, 57.2, True)):
        one = found(before, after)
        row = next(row for row in vllm.rows(one) if row.figure == "TTFT p50")
        assert row.met is False and one.unsure(row) is unsure
    assert table.error_of_error([1.0], [1.0, 2.0]) == math.inf


def test_only_what_is_sure_fails() -> None:
    """Of one engine's figures by their spread, of an order by the machine's pace."""
    assert vllm.status(found(40.0, 40.0)) == 0
    assert vllm.status(found(52.0, 52.2)) == 1
    assert vllm.status(found(41.0, 57.2)) == vllm.UNSTEADY
    other = found(40.0, 40.0)
    # Now the default is first as measured in both rounds, and the last by far in the simulator.
    other.orders[0].simulated["default"] = [figures(90.0, 180.0)]
    assert vllm.status(other) == 1
    other.paces["sessions"] = [0.9, 1.2]
    assert vllm.status(other) == vllm.UNSTEADY


def test_the_machines_own_pace_tells_of_orders() -> None:
    """A machine that took a third longer for the same in one of two plays says nothing of an order."""
    one = found(40.0, 40.0)
    assert one.drift == pytest.approx(0.1)
    one.paces["sessions"] = [0.9, 1.2]
    assert one.drift == pytest.approx(1 / 3) and one.drift > vllm.STEADY


def test_a_pace_is_the_processor_time_of_the_same() -> None:
    """Sampled while it is held, by what was done meanwhile."""
    machine, found_ms = pace.Pace(), list[float]()
    with machine.held(), machine.of(found_ms):
        time.sleep(0.7)
    [took_ms] = found_ms
    assert 0.05 < took_ms < 50.0
    assert pace.spread([took_ms]) == 0.0


def test_each_pair_is_ranked_by_each_latency() -> None:
    """Two that lead in one play each are unsettled where the simulator has them the other way round; the default is first."""
    said = {
        (better, worse): order
        for _, latency, better, worse, order in vllm.ranks(found(40.0, 40.0))
        if latency == "ttft_ms"
    }
    assert said[("default", "least-request")] == said[("default", "round-robin")] == "same"
    assert {said.get(("least-request", "round-robin")), said.get(("round-robin", "least-request"))} == {
        None,
        "unsettled",
    }


def test_the_pause_is_what_the_middle_request_finds() -> None:
    """Answers of 0.3 s to requests of which one comes while the first is answered, and two after a second of rest."""
    turns = [request.TraceRequest(at_s, 10, 1, "t", number) for number, at_s in enumerate((0.0, 0.1, 1.4, 2.7))]
    assert vllm.idle_s(turns, 0.3) == pytest.approx((0.0 + 1.0) / 2)

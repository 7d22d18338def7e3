"""Workers that die, hang, slow down or leave; gateways that are cut off."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.workload import request
from tests.support.simulated import asked, play

STEADY = [asked(number * 0.25, 2048, 300, line=number + 1) for number in range(240)]


def faults(*given: dict[str, Any], found: list[request.TraceRequest] = STEADY, **changes: Any) -> Any:
    """Plays requests on three workers with these faults."""
    return play(found, faults=list(given), workers=3, **changes)


def counts(result: Any) -> dict[str, int]:
    """Requests by what became of them."""
    return {"completed": result.figures["completed"], **result.figures["errors_by_kind"]}


def test_a_killed_worker_cuts_what_has_begun_and_nothing_else() -> None:
    """Answers that had begun are cut, the rest is answered elsewhere, and after the cold start it works again."""
    result = faults({"kind": "kill", "at_s": 20, "worker": 1}, cold_start={"median_s": 10, "sigma": 0})
    found = counts(result)
    assert found["completed"] + found["cut"] == len(STEADY)
    assert 0 < found["cut"] < 12
    there = [each.sent_s for each in result.outcomes if each.endpoint == "w-1"]
    assert not [time_s for time_s in there if 20.1 < time_s < 30]
    assert [time_s for time_s in there if time_s > 30]
    assert result.figures["worker_seconds"] == pytest.approx(3 * result.figures["wall_s"], rel=0.01)


def test_a_worker_that_is_not_restarted_stays_away() -> None:
    """Its time ends with it, and requests go to the others."""
    result = faults({"kind": "kill", "at_s": 20, "worker": 1, "restart": False})
    assert not [each for each in result.outcomes if each.endpoint == "w-1" and each.sent_s > 20.1]
    assert result.figures["worker_seconds"] == pytest.approx(2 * result.figures["wall_s"] + 20, rel=0.01)


def test_with_every_worker_dead_requests_are_refused() -> None:
    """Nothing is lost without an answer: what cannot be placed is refused."""
    dead = [{"kind": "kill", "at_s": 20, "worker": worker, "restart": False} for worker in range(3)]
    found = counts(faults(*dead))
    assert found["no_endpoint"] + found["model_not_found"] > 100
    assert sum(found.values()) == len(STEADY)


def test_a_slow_worker_gets_less_work() -> None:
    """Its queue lasts longer, so fewer requests go there, and the run is slower than without."""
    slow = faults({"kind": "slow", "at_s": 5, "worker": 1, "factor": 20, "for_s": 50})
    well = faults()
    requests = slow.figures["endpoints"]
    assert requests["w-1"]["requests"] < 0.8 * requests["w-0"]["requests"]
    assert slow.figures["e2e_ms"]["mean"] > well.figures["e2e_ms"]["mean"]
    assert slow.figures["completed"] == len(STEADY)


def test_a_hanging_worker_is_given_up_by_its_silence() -> None:
    """Requests without a byte go elsewhere after the probes, begun ones are cut, and it serves again afterwards."""
    result = faults({"kind": "hang", "at_s": 20, "worker": 1, "for_s": 20})
    found = counts(result)
    assert found["completed"] + found["cut"] == len(STEADY)
    late = [each for each in result.outcomes if each.retries]
    assert late
    assert all(28 < each.sent_s + each.ttft_s < 30 for each in late)
    assert [each for each in result.outcomes if each.endpoint == "w-1" and each.sent_s > 41]


def test_a_short_hang_only_delays() -> None:
    """A pause shorter than the probes' patience costs time, not answers."""
    result = faults({"kind": "hang", "at_s": 20, "worker": 1, "for_s": 3})
    assert result.figures["completed"] == len(STEADY)
    assert result.figures["retries"] == 0
    longest = [max(each.e2e_s for each in run.outcomes) for run in (result, faults())]
    assert longest[0] > longest[1] + 2.5


def test_a_drained_worker_finishes_and_leaves() -> None:
    """No request is lost or sent there any more, and its time ends."""
    result = faults({"kind": "drain", "at_s": 20, "worker": 1})
    assert result.figures["completed"] == len(STEADY)
    assert result.figures["retries"] == 0
    assert not [each for each in result.outcomes if each.endpoint == "w-1" and each.sent_s > 20]
    assert result.figures["worker_seconds"] < 2 * result.figures["wall_s"] + 30


def test_new_workers_take_work_after_their_cold_start() -> None:
    """Their time counts from the start, requests come once they are ready."""
    result = faults({"kind": "join", "at_s": 10, "workers": 2}, cold_start={"median_s": 10, "sigma": 0})
    for name in ("w-3", "w-4"):
        sent = [each.sent_s for each in result.outcomes if each.endpoint == name]
        assert 20 <= min(sent) < 25
    lasted_s = result.figures["wall_s"]
    assert result.figures["worker_seconds"] == pytest.approx(3 * lasted_s + 2 * (lasted_s - 10), rel=0.01)


REPEATED = [
    asked(number * 0.5, 20 * 512, 5, tuple(number // 2 * 100 + block for block in range(20)), line=number + 1)
    for number in range(200)
]


@pytest.mark.parametrize("fault", [{"kind": "partition", "gateway": 1}, {"kind": "event-loss", "share": 1.0}])
def test_what_gateways_do_not_hear_costs_reuse_and_heals(fault: dict[str, Any]) -> None:
    """While batches do not arrive prefixes are missed; afterwards they are found again, and nothing fails."""
    both = {"policy": "default", "count": 2}
    well = faults(found=REPEATED, gateways=both)
    cut = faults({"at_s": 20, "for_s": 30, **fault}, found=REPEATED, gateways=both)
    assert cut.figures["completed"] == len(REPEATED)

    def cached(result: Any, begin_s: float, end_s: float) -> int:
        return sum(each.cached_tokens for each in result.outcomes if begin_s <= each.sent_s < end_s)

    assert cached(cut, 20, 50) < 0.9 * cached(well, 20, 50)
    assert cached(cut, 55, 100) > 0.9 * cached(well, 55, 100)


def test_a_worker_that_comes_back_during_a_partition_is_found_after_it() -> None:
    """A gateway that is cut off learns of the registry's changes when it is back."""
    result = faults(
        {"kind": "partition", "at_s": 10, "gateway": 0, "for_s": 20},
        {"kind": "kill", "at_s": 12, "worker": 1},
        cold_start={"median_s": 5, "sigma": 0},
    )
    sent = [each.sent_s for each in result.outcomes if each.endpoint == "w-1"]
    assert [time_s for time_s in sent if time_s > 30]
    assert not [time_s for time_s in sent if 12.5 < time_s < 30]

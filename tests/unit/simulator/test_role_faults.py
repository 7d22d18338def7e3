"""Workers of prompts and of answers that die, hang, slow down or leave, and links that do."""

from __future__ import annotations

from typing import Any

import pytest

from simulator import results, scenario, simulation
from tests.support.simulated import asked, nothing_left

STEADY = [asked(number * 0.25, 4_096, 300, line=number + 1) for number in range(160)]
# Workers 0 and 1 compute prompts, 2 and 3 generate answers.
PREFILL, DECODE = 0, 2


def told(*faults: dict[str, Any], **changes: Any) -> scenario.Scenario:
    """Two workers of each role."""
    pools = [{"role": role, "workers": 2, "kv_blocks": 400} for role in ("prefill", "decode")]
    fleet = {"kv_transfer_gbytes_s": changes.pop("gbytes_s", 10.0), "models": [{"pools": pools}]} | changes.pop(
        "fleet", {}
    )
    return scenario.parse({"fleet": fleet, "faults": list(faults), **changes})


def play(*faults: dict[str, Any], found: Any = STEADY, **changes: Any) -> results.Result:
    """Plays requests with these faults, and looks at what is left."""
    values = told(*faults, **changes)
    played = simulation.prepare(values, found)
    played.run()
    nothing_left(played)
    return results.summarize(values, played.tally, list(played.workers.values()), simulation.BIN_S)


def counts(result: Any) -> dict[str, int]:
    """Requests by what became of them."""
    found = {"completed": result.figures["completed"], **result.figures["errors_by_kind"]}
    assert sum(found.values()) == result.figures["requests"]
    return found


def test_without_faults_all_end_well() -> None:
    """Nothing is tried again."""
    result = play()
    assert counts(result) == {"completed": len(STEADY)}
    assert result.figures["retries"] == 0


def test_a_killed_worker_of_prompts_costs_the_kv_that_it_held() -> None:
    """Prompts that it had not finished go elsewhere; answers whose KV only it had are cut, and those being generated go on."""
    slow = {"gbytes_s": 0.8}
    found = [asked(number * 1.0, 8_192, 300, line=number + 1) for number in range(30)]
    result = play({"kind": "kill", "at_s": 10.7, "worker": PREFILL}, found=found, **slow)
    assert set(counts(result)) == {"completed", "cut"}
    for each in result.outcomes:
        if each.error == "cut":
            assert each.first_s is not None and each.first_s < 10.7
            # It was on its way.
            assert each.sent_s is not None and 10.7 - each.sent_s < 3.0
    early = play(
        {"kind": "kill", "at_s": 10.05, "worker": PREFILL}, {"kind": "kill", "at_s": 11.05, "worker": 1}, found=found
    )
    assert early.figures["retries"] > 0


def test_a_killed_worker_of_answers_loses_only_what_had_arrived() -> None:
    """What it was still to get is sent to the other one from where the prompt was computed."""
    found = [asked(number * 1.0, 8_192, 300, line=number + 1) for number in range(40)]
    # A transfer takes 1.1 s: at one of these times at least it goes to the worker that dies.
    kills = [
        {"kind": "kill", "at_s": at_s, "worker": worker}
        for at_s, worker in ((10.6, 2), (15.6, 2), (20.6, 3), (25.6, 3))
    ]
    result = play(*kills, found=found, gbytes_s=1.0, cold_start={"median_s": 2, "sigma": 0})
    assert set(counts(result)) == {"completed", "cut"}
    assert counts(result)["cut"] <= 2 * len(kills)
    again = [each for each in result.outcomes if each.answer_retries]
    assert again
    for each in again:
        assert each.completed
        # The client had its first token before the worker died, and the second a transfer after that.
        died_s = min(kill["at_s"] for kill in kills if kill["at_s"] > each.first_s)
        assert each.end_s > died_s + 8_192 * 131_072 / 1e9
    assert result.figures["transfers"]["count"] == len(found)


def test_without_a_token_everything_is_done_again() -> None:
    """Where the second worker answers with the first token, no loss of KV cuts an answer; only one that has begun is cut."""
    found = [asked(number * 1.0, 8_192, 300, line=number + 1) for number in range(40)]
    late = {
        "found": found,
        "gbytes_s": 1.0,
        "cold_start": {"median_s": 2, "sigma": 0},
        "fleet": {"first_token": "decode"},
    }
    kills = [
        {"kind": "kill", "at_s": at_s, "worker": worker}
        for at_s, worker in ((10.6, 0), (15.6, 0), (20.6, 1), (25.6, 1))
    ]
    result = play(*kills, **late)
    assert counts(result) == {"completed": len(found)}
    assert [each.retries for each in result.outcomes if each.retries]
    answers = play(*({**kill, "worker": kill["worker"] + 2} for kill in kills), **late)
    assert set(counts(answers)) == {"completed", "cut"}
    for each in answers.outcomes:
        assert each.completed or each.first_s is not None


def test_kv_that_came_to_a_worker_that_hangs_is_lost() -> None:
    """The first worker has given it away by then; as the client has no token yet, the prompt is computed again."""
    retries = 0
    for worker in (2, 3):
        result = play({"kind": "hang", "at_s": 0.5, "worker": worker, "for_s": 60}, found=[asked(0.0, 8_192, 20)], gbytes_s=1.0,
                      fleet={"first_token": "decode"})  # fmt: skip
        assert counts(result) == {"completed": 1}
        assert result.figures["transfers"]["count"] == 1 + result.figures["retries"]
        retries += result.figures["retries"]
    assert retries == 1


def test_answers_that_were_generated_there_are_cut() -> None:
    """Their KV is gone at both workers."""
    result = play({"kind": "kill", "at_s": 20.1, "worker": DECODE})
    found = counts(result)
    assert 0 < found["cut"] < 12
    assert all(each.endpoint == "w-2" for each in result.outcomes if each.error == "cut")


def test_without_any_worker_of_a_role_requests_are_refused() -> None:
    """Prompts whose answers nobody could generate are not computed."""
    dead = [{"kind": "kill", "at_s": 20, "worker": worker, "restart": False} for worker in (2, 3)]
    result = play(*dead)
    found = counts(result)
    assert found["no_endpoint"] + found["model_not_found"] > 50
    assert found["completed"] + found["no_endpoint"] + found["model_not_found"] + found["cut"] == len(STEADY)


def test_a_slow_link_is_known_by_what_waits_there() -> None:
    """Its worker gets fewer answers, second tokens come later, and all end."""
    fault = {"kind": "slow-link", "at_s": 5, "worker": DECODE, "factor": 30, "for_s": 30}
    slow, well = play(fault), play()
    assert counts(slow) == {"completed": len(STEADY)}
    requests = slow.figures["endpoints"]
    assert requests["w-2"]["requests"] < 0.8 * requests["w-3"]["requests"]
    handovers = [each.figures["transfers"]["handover_ms"]["mean"] for each in (slow, well)]
    assert handovers[0] > 1.5 * handovers[1]


def test_a_link_that_recovers_is_as_quick_as_before() -> None:
    """Two slow times that overlap leave nothing behind."""
    faults = [{"kind": "slow-link", "at_s": at_s, "worker": DECODE, "factor": 7, "for_s": 10} for at_s in (1, 5)]
    late = [asked(60 + number, 4_096, 5, line=number + 1) for number in range(5)]
    slow, well = play(*faults, found=late), play(found=late)
    assert slow.figures["transfers"]["seconds"] == pytest.approx(well.figures["transfers"]["seconds"])


def test_hanging_workers_are_given_up() -> None:
    """A prompt goes elsewhere; an answer that had not begun there is generated by the other; KV that is kept can be read."""
    for worker in (PREFILL, DECODE):
        result = play({"kind": "hang", "at_s": 20, "worker": worker, "for_s": 20})
        found = counts(result)
        assert found["completed"] + found.get("cut", 0) == len(STEADY)
        assert found.get("cut", 0) < 12
        assert result.figures["retries"] > 0


def test_kv_is_read_from_a_worker_that_hangs() -> None:
    """Gateways that give it up have no answer of it to wait for, and the link needs nothing of the engine."""
    found = [asked(0.0, 20_000, 20)]
    result = play({"kind": "hang", "at_s": 2, "worker": PREFILL, "for_s": 60}, found=found, gbytes_s=0.1)
    assert counts(result) == {"completed": 1}
    assert result.outcomes[0].computed_by == "w-0"
    assert result.outcomes[0].e2e_s == pytest.approx(20_000 * 131_072 / 1e8, abs=1.5)


def test_drained_workers_finish_and_leave() -> None:
    """No request is lost: KV is sent before its worker goes, and what was to come to one that left goes to another."""
    for worker in (PREFILL, DECODE):
        result = play({"kind": "drain", "at_s": 20, "worker": worker}, gbytes_s=2.0)
        assert counts(result) == {"completed": len(STEADY)}
        assert result.figures["worker_seconds"] < 3 * result.figures["wall_s"] + 35


def test_joined_workers_have_the_role_of_the_one_they_are_like() -> None:
    """They send or receive over links of their own."""
    result = play(*({"kind": "join", "at_s": 5, "like": worker} for worker in (PREFILL, DECODE)),
                  cold_start={"median_s": 5, "sigma": 0})  # fmt: skip
    rows = result.figures["endpoints"]
    assert (rows["w-4"]["role"], rows["w-5"]["role"]) == ("prefill", "decode")
    assert rows["w-4"]["requests"] and rows["w-5"]["requests"]
    assert [each["workers"] for each in result.figures["pools"].values()] == [3, 3]

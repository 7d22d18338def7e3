"""Prompts on some workers, answers on others: times, transfers, figures."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import perf
from penstock.workload import request
from simulator import html, results, scenario, simulation
from tests.support.simulated import asked

PROFILE = perf.load_profile("h200-llama3.1-8b-fp8")
FRONTEND_S = PROFILE.frontend_ms / 1000
KV_BYTES = 131_072
GB = 1e9


def told(prefill: int = 1, decode: int = 1, gbytes_s: float = 10.0, **changes: Any) -> scenario.Scenario:
    """One model on workers of both roles; `pool` changes both of its pools."""
    pool = {"kv_blocks": 200} | changes.pop("pool", {})
    fleet = {"kv_transfer_gbytes_s": gbytes_s, "kv_transfer_ms": 2.0} | changes.pop("fleet", {})
    pools = [{"role": "prefill", "workers": prefill} | pool, {"role": "decode", "workers": decode} | pool]
    return scenario.parse({"fleet": fleet | {"models": [{"pools": pools}]}, **changes})


def play(found: list[request.TraceRequest], *counts: int, **changes: Any) -> results.Result:
    """Runs requests through `told`."""
    return simulation.run(told(*counts, **changes), found)


def prefill_s(tokens: int) -> float:
    """Time of a prompt's steps alone on an engine."""
    return PROFILE.step.prefill_ms(tokens, 0, 8192) / 1000


def decode_s(*kv_tokens: int) -> float:
    """Time of steps of one sequence."""
    return sum(PROFILE.step.decode_step_ms(1, tokens) for tokens in kv_tokens) / 1000


def test_a_lone_request_takes_what_can_be_worked_out() -> None:
    """First token: frontend and prefill. Second: the other frontend, latency, bytes over bandwidth, one step. Then steps."""
    result = play([asked(0.0, 20_000, 4)])
    only = result.outcomes[0]
    first_s = FRONTEND_S + prefill_s(20_000)
    transfer_s = 20_000 * KV_BYTES / (10 * GB)
    handover_s = FRONTEND_S + 0.002 + transfer_s + decode_s(20_001)
    assert only.ttft_s == pytest.approx(first_s)
    assert only.e2e_s == pytest.approx(first_s + handover_s + decode_s(20_002, 20_003))
    figures = result.figures
    assert figures["transfers"]["count"] == 1
    assert figures["transfers"]["bytes"] == 20_000 * KV_BYTES
    assert figures["transfers"]["seconds"] == pytest.approx(transfer_s)
    assert figures["transfers"]["handover_ms"]["mean"] == pytest.approx(handover_s * 1000)
    assert only.gap_sum_s == pytest.approx(handover_s + decode_s(20_002, 20_003))
    assert figures["itl_ms"]["mean"] == pytest.approx((handover_s + decode_s(20_002, 20_003)) / 3 * 1000)


def test_a_first_token_may_come_from_the_second_worker() -> None:
    """Then TTFT holds the transfer and a step for the prompt's last token, and each gap is a step."""
    result = play([asked(0.0, 20_000, 4)], fleet={"first_token": "decode", "kv_transfer_ms": 2.0})
    only = result.outcomes[0]
    transfer_s = 20_000 * KV_BYTES / (10 * GB)
    first_s = FRONTEND_S + prefill_s(20_000) + FRONTEND_S + 0.002 + transfer_s + decode_s(20_000)
    assert only.ttft_s == pytest.approx(first_s)
    assert only.e2e_s == pytest.approx(first_s + decode_s(20_001, 20_002, 20_003))
    assert result.figures["itl_ms"]["mean"] == pytest.approx(decode_s(20_001, 20_002, 20_003) / 3 * 1000)
    assert result.figures["pools"]["sim/decode"]["computed_tokens"] == 4
    one = play([asked(0.0, 20_000, 1)], fleet={"first_token": "decode", "kv_transfer_ms": 2.0}).outcomes[0]
    assert (one.ttft_s, one.e2e_s) == (pytest.approx(first_s), pytest.approx(first_s))


def test_with_endless_bandwidth_only_the_second_frontend_is_left() -> None:
    """A pair is as quick as one worker that does both, but for what the second way through a frontend takes."""
    fast = {"gbytes_s": 1e6, "fleet": {"kv_transfer_ms": 0.0}}
    split = play([asked(0.0, 8_000, 50)], **fast).outcomes[0]
    whole = simulation.run(scenario.parse({"fleet": {"models": [{"pools": [{"workers": 1, "kv_blocks": 200}]}]}}),
                           [asked(0.0, 8_000, 50)]).outcomes[0]  # fmt: skip
    assert split.ttft_s == pytest.approx(whole.ttft_s)
    assert split.e2e_s is not None and whole.e2e_s is not None
    assert split.e2e_s - whole.e2e_s == pytest.approx(FRONTEND_S + 8_000 * KV_BYTES / 1e15)


def test_network_time_counts_for_each_way() -> None:
    """The first token comes one way later, the second has been there and back once more."""
    near = play([asked(0.0, 4_000, 2)]).outcomes[0]
    far = play([asked(0.0, 4_000, 2)], fleet={"network_ms": 3.0}).outcomes[0]
    assert far.ttft_s == pytest.approx(near.ttft_s + 0.006)
    assert far.e2e_s == pytest.approx(near.e2e_s + 0.012)


def test_an_answer_of_one_token_is_not_sent_on() -> None:
    """It ends where its prompt was computed."""
    result = play([asked(0.0, 4_000, 1)])
    assert result.outcomes[0].e2e_s == pytest.approx(FRONTEND_S + prefill_s(4_000))
    assert result.figures["transfers"]["count"] == 0
    assert result.figures["pools"]["sim/decode"]["requests"] == 0


def test_two_transfers_share_a_link() -> None:
    """Two prompts computed at once for one worker arrive as late as if one had all the bytes."""
    both = [asked(0.0, 10_240, 2, line=line) for line in (1, 2)]
    result = play(both, 2, 1, gbytes_s=1.0)
    first_s = FRONTEND_S + prefill_s(10_240)
    arrived_s = first_s + FRONTEND_S + 0.002 + 2 * 10_240 * KV_BYTES / GB
    assert [each.ttft_s for each in result.outcomes] == pytest.approx([first_s] * 2)
    # The engine begins a step with the first of them, and the other one comes just after that.
    ends = sorted(each.e2e_s or 0.0 for each in result.outcomes)
    assert ends == pytest.approx([arrived_s + number * decode_s(10_241) for number in (1, 2)])


def test_what_is_cached_where_it_goes_is_not_sent() -> None:
    """The second turn of a conversation sends what is new, in whole blocks."""
    ids = tuple(range(30))
    turns = [asked(0.0, 10 * 512, 5, ids, line=1), asked(5.0, 12 * 512 + 9, 5, ids, line=2)]
    result = play(turns, 1, 1)
    assert result.figures["transfers"]["bytes"] == (10 * 512 + 2 * 512 + 9) * KV_BYTES
    assert result.outcomes[1].cached_tokens == 10 * 512


def test_a_prompt_that_is_all_cached_where_it_goes_is_not_sent() -> None:
    """Its last token need not be computed again there, nor waited for: the next one is known."""
    ids = tuple(range(10))
    result = play([asked(0.0, 10 * 512, 5, ids, line=1), asked(5.0, 10 * 512, 2, ids, line=2)])
    assert result.figures["transfers"]["count"] == 1
    again = result.outcomes[1]
    assert again.e2e_s - again.ttft_s == pytest.approx(FRONTEND_S + decode_s(10 * 512 + 1))


def test_gateways_do_not_expect_answers_where_prompts_are_computed() -> None:
    """What runs there will not grow by a mean answer."""
    (door,) = simulation.prepare(told(), [asked(0.0, 100, 2)]).gateways
    assert door.fleet.pools["sim@prefill"].observed.output_tokens == 1.0


def test_the_report_shows_transfers_where_there_are_any() -> None:
    """And the pools always."""
    split, whole = play([asked(0.0, 4_000, 5)]), simulation.run(scenario.parse({}), [asked(0.0, 4_000, 5)])
    pages = [html.page(each) for each in (split, whole)]
    for title in ("KV between workers over time", "Pools at work"):
        assert [title in page for page in pages] == [True, False]
    assert ["sim/prefill" in page for page in pages] == [True, False]
    assert "sim/unified" in pages[1]


def test_more_bandwidth_is_never_worse() -> None:
    """On one pair, whatever the load, each request ends no later with a faster link."""
    found = [asked(number * 0.2, 3_000 + 700 * (number % 5), 20, line=number + 1) for number in range(40)]
    ends = []
    for gbytes_s in (0.5, 2.0, 10.0, 100.0):
        result = play(found, gbytes_s=gbytes_s)
        assert result.figures["completed"] == len(found)
        ends.append(result.figures["e2e_ms"]["mean"])
    assert ends == sorted(ends, reverse=True)
    assert ends[0] > ends[-1] + 100


def test_kv_that_cannot_be_sent_blocks_the_prompts_behind_it() -> None:
    """A worker whose cache is full of KV that waits for a slow link computes nothing more until some has gone."""
    found = [asked(0.0, 40 * 512, 2, line=line) for line in range(1, 8)]
    slow = play(found, gbytes_s=1.0, pool={"kv_blocks": 100})
    quick = play(found, gbytes_s=1000.0, pool={"kv_blocks": 100})
    third = sorted(each.ttft_s for each in slow.outcomes)[2]
    assert third > 40 * 512 * KV_BYTES / GB
    assert sorted(each.ttft_s for each in quick.outcomes)[2] < 2.0
    assert slow.figures["completed"] == quick.figures["completed"] == len(found)


def test_a_preempted_answer_is_computed_again_where_it_was() -> None:
    """Its KV is not sent twice: the worker that computed the prompt no longer has it."""
    found = [asked(0.01 * line, 20 * 512, 3_000, line=line) for line in range(1, 5)]
    result = play(found, gbytes_s=100.0, pool={"kv_blocks": 90}, gateways={"kv_share": 0})
    assert result.figures["preemptions"] > 0
    assert result.figures["completed"] == len(found)
    assert result.figures["transfers"]["bytes"] == len(found) * 20 * 512 * KV_BYTES
    prompts = result.figures["pools"]["sim/prefill"]["computed_tokens"]
    assert prompts == len(found) * 20 * 512
    assert result.figures["pools"]["sim/decode"]["computed_tokens"] > len(found) * 2_999


def test_a_prompt_that_fits_but_whose_answer_does_not_is_refused() -> None:
    """The second worker says no, and nothing is left at the first."""
    result = play([asked(0.0, 100 * 512, 60_000), asked(1.0, 1_000, 5, line=2)])
    assert result.figures["errors_by_kind"] == {"http_400": 1}
    assert result.outcomes[1].completed


def test_figures_by_pool() -> None:
    """Each pool has its requests, time, energy and bytes; together they are the fleet's."""
    found = [asked(number * 0.1, 2_048, 30, line=number + 1) for number in range(60)]
    result = play(found, 2, 1)
    pools = result.figures["pools"]
    assert list(pools) == ["sim/prefill", "sim/decode"]
    assert [each["role"] for each in pools.values()] == ["prefill", "decode"]
    assert [each["workers"] for each in pools.values()] == [2, 1]
    assert [each["requests"] for each in pools.values()] == [60, 60]
    assert [each["computed_tokens"] for each in pools.values()] == [60 * 2_048, 60 * 29]
    assert pools["sim/prefill"]["sent_bytes"] == pools["sim/decode"]["received_bytes"] == 60 * 2_048 * KV_BYTES
    for key in ("worker_seconds", "gpu_seconds", "joules", "preemptions"):
        assert sum(each[key] for each in pools.values()) == pytest.approx(result.figures[key])
    assert pools["sim/prefill"]["worker_seconds"] == pytest.approx(2 * result.figures["wall_s"])
    assert {each["role"] for each in result.figures["endpoints"].values()} == {"prefill", "decode"}


def test_a_worker_without_a_role_has_no_transfers() -> None:
    """The keys are there, and empty."""
    result = simulation.run(scenario.parse({}), [asked(0.0, 1_000, 3)])
    assert result.figures["transfers"]["count"] == 0
    assert result.figures["transfers"]["handover_ms"]["mean"] is None
    assert list(result.figures["pools"]) == ["sim/unified"]


def test_a_split_model_beside_one_that_is_not() -> None:
    """Each request goes to workers of its model; the policy of a model holds for both its pools."""
    values: dict[str, Any] = {
        "fleet": {
            "models": [
                {
                    "name": "split",
                    "policy": "round-robin",
                    "pools": [{"role": r, "workers": 2} for r in ("prefill", "decode")],
                },
                {"name": "whole", "pools": [{"workers": 1}]},
            ]
        }
    }
    found = [asked(0.2 * number, 2_048, 10, line=number + 1) for number in range(100)]
    result = simulation.run(scenario.parse(values), found)
    assert result.figures["completed"] == len(found)
    for each in result.outcomes:
        if each.model == 0:
            assert (each.computed_by in ("w-0", "w-1"), each.endpoint in ("w-2", "w-3")) == (True, True)
        else:
            assert (each.computed_by, each.endpoint) == (None, "w-4")
    requests = [row["requests"] for name, row in sorted(result.figures["endpoints"].items()) if name != "w-4"]
    assert max(requests) - min(requests) <= 1


def test_unequal_pools_of_a_role() -> None:
    """A model may have several pools of a role, each with a link and a profile of its own."""
    values = {
        "fleet": {
            "kv_transfer_gbytes_s": 5.0,
            "models": [
                {
                    "name": "m",
                    "pools": [
                        {"role": "prefill", "workers": 1},
                        {"role": "prefill", "workers": 1, "profile": "h100-llama3.1-8b", "kv_transfer_gbytes_s": 1.0},
                        {"role": "decode", "workers": 1, "profile": "h100-llama3.1-8b"},
                    ],
                }
            ],
        }
    }
    found = [asked(0.05 * number, 4_096, 10, line=number + 1) for number in range(60)]
    figures = simulation.run(scenario.parse(values), found).figures
    assert list(figures["pools"]) == ["m/prefill", "m/prefill#2", "m/decode"]
    assert all(each["requests"] for each in figures["pools"].values())
    assert figures["pools"]["m/prefill"]["profile"] == "h200-llama3.1-8b-fp8"


def test_several_gateways_know_of_each_others_pairs() -> None:
    """Prefixes that one has placed are found by the other, on both kinds of workers."""
    found = [
        asked(number * 0.5, 20 * 512, 5, tuple(number // 2 * 100 + block for block in range(20)), line=number + 1)
        for number in range(60)
    ]
    result = play(found, 3, 2, pool={"kv_blocks": 2_000}, gateways={"count": 2})
    assert result.figures["completed"] == len(found)
    assert sum(each.cached_tokens for each in result.outcomes) > 25 * 19 * 512
    assert result.figures["transfers"]["bytes"] < 35 * 20 * 512 * KV_BYTES

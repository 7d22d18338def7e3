"""What the default does with a prefix that many ask for, beside prompts that nobody asks for again."""

from __future__ import annotations

import collections
from collections.abc import Iterable

import pytest

from penstock.workload import request
from simulator import scenario, simulation, tally

BLOCK = 16
HOT_BLOCKS = 128
COLD_BLOCKS = 400


def hot(at_s: float, number: int) -> request.TraceRequest:
    """2,048 tokens that all share and 16 of its own."""
    ids = (*range(HOT_BLOCKS), 1_000_000 + number)
    return request.TraceRequest(at_s, len(ids) * BLOCK, 64, "hot", number, ids, BLOCK)


def cold(at_s: float, number: int) -> request.TraceRequest:
    """6,400 tokens like no others."""
    first = 2_000_000 + number * COLD_BLOCKS
    return request.TraceRequest(
        at_s, COLD_BLOCKS * BLOCK, 16, "cold", number, tuple(range(first, first + COLD_BLOCKS)), BLOCK
    )


def play(asked: Iterable[request.TraceRequest], policy: str = "default", kv_blocks: int = 4_000) -> list[tally.Outcome]:
    """On four workers; outcomes in the order of arrival."""
    told = scenario.parse(
        {
            "fleet": {"block_size": BLOCK, "models": [{"pools": [{"workers": 4, "kv_blocks": kv_blocks}]}]},
            "gateways": {"policy": policy},
        }
    )
    return list(simulation.run(told, sorted(asked, key=lambda each: each.arrival_s)).outcomes)


@pytest.mark.parametrize(("rate_rps", "least", "most"), [(1.0, 1, 1), (150.0, 3, 4)])
def test_a_hot_prefix_is_on_as_many_workers_as_it_takes(rate_rps: float, least: int, most: int) -> None:
    """One worker where that one keeps up, nearly all where it does not; it is computed hardly more often than that."""
    found = play(hot(number / rate_rps, number) for number in range(600))
    served = collections.Counter(each.endpoint for each in found)
    assert least <= sum(count > 20 for count in served.values()) <= most
    assert sum((each.cached_tokens or 0) < HOT_BLOCKS * BLOCK for each in found) < 40


def test_cold_prompts_do_not_push_a_hot_prefix_out() -> None:
    """Cold prompts turn all caches over in 8 s, a hot one comes every 5: each finds its prefix, and hardly any under other rules."""
    asked = [cold(number * 0.2, number) for number in range(800)]
    asked += [hot(1.0 + number * 5.0, number) for number in range(30)]

    def again(policy: str) -> int:
        outcomes = [each for each in play(asked, policy) if each.source == "hot"]
        return sum((each.cached_tokens or 0) >= HOT_BLOCKS * BLOCK for each in outcomes[1:])

    assert again("default") == 29
    assert max(again("least-request"), again("round-robin")) < 15

"""llm-d's two profiles: scores worked out by hand from its scorers and its affinity filter."""

from __future__ import annotations

import pytest

from router.policy import types
from router.policy.peers import llm_d
from tests.support import policies


def endpoint(slot: int, waiting: int = 0, kv_tokens: int = 0, queued: int = 0) -> types.Endpoint:
    made = policies.endpoint(slot, queued=queued)
    made.waiting, made.kv_tokens, made.capacity_tokens = waiting, kv_tokens, 10_000.0
    return made


def test_weights_queue_kv_and_prefix() -> None:
    """Scores of 2 x queue + 2 x (1 - usage) + 3 x prefix, given as what is missing to 7: 5.6, 3.0 and 3.5."""
    pool = [endpoint(0, waiting=4, kv_tokens=2_000), endpoint(1, kv_tokens=5_000), endpoint(2, waiting=8)]
    decision = llm_d.llm_d(policies.request(640, blocks=40), policies.observed(pool, {0: 40, 2: 20}), 0)
    assert decision.endpoint.id == "w-0"
    assert decision.matched_tokens == 640
    assert decision.scores[0] == pytest.approx([1.0, 0.0, 2.0])
    assert decision.scores[1] == pytest.approx([0.4, 1.0, 0.0])
    assert decision.scores[2] == pytest.approx([0.0, 3.0, 1.5])


@pytest.mark.parametrize(("kv_tokens", "expected"), [(3_900, "w-1"), (4_100, "w-0")])
def test_whole_prefix_weighs_a_queue_and_half_of_a_cache(kv_tokens: int, expected: str) -> None:
    """The longest queue, 90 % of KV in use and the whole prefix score 3.2; no queue and no prefix 4 - 2 x usage."""
    pool = [endpoint(0, waiting=8, kv_tokens=9_000), endpoint(1, kv_tokens=kv_tokens)]
    seen = policies.observed(pool, {0: 10})
    assert llm_d.llm_d(policies.request(160, blocks=10), seen, 0).endpoint.id == expected


def test_counts_all_gateways_and_takes_unknown_capacity_as_free() -> None:
    """Queue and KV include what peers said; KV in use is at most all of it; equal queues cost nothing."""
    pool = [endpoint(0), endpoint(1, waiting=1), endpoint(2)]
    pool[0].peer_waiting = 1
    pool[2].peer_waiting = 1
    pool[0].peer_kv_tokens = 12_000
    pool[2].capacity_tokens, pool[2].kv_tokens = float("inf"), 50_000
    decision = llm_d.llm_d(policies.request(), policies.observed(pool), 0)
    assert decision.scores[0] == [0.0, 0.0, 0.0]
    assert decision.scores[1] == [2.0, 0.0, 0.0]
    assert decision.endpoint.id in ("w-1", "w-2")


@pytest.mark.parametrize(("blocks", "expected"), [(8, "w-0"), (7, "w-1")])
def test_sticks_from_four_fifths_of_the_prompt(blocks: int, expected: str) -> None:
    """8 of 10 blocks are 0.80 and hold against an idle endpoint; 7 do not."""
    pool = [endpoint(0, queued=1_000), endpoint(1)]
    seen = policies.observed(pool, {0: blocks})
    assert llm_d.llm_d_sticky(policies.request(160, blocks=10), seen, 0).endpoint.id == expected


@pytest.mark.parametrize(("queued", "expected"), [(286_704, "w-0"), (286_705, "w-1")])
def test_leaves_the_prefix_where_it_is_18_s_later(queued: int, expected: str) -> None:
    """15,928 tokens per second for 18 s are 286,704 tokens: one more, and all endpoints are open."""
    pool = [endpoint(0, queued=queued), endpoint(1)]
    decision = llm_d.llm_d_sticky(policies.request(160, blocks=10), policies.observed(pool, {0: 10}), 0)
    assert decision.endpoint.id == expected
    assert ("saturated" in decision.reason) == (expected == "w-1")


def test_sticky_takes_the_fewest_tokens_in_flight_with_its_own() -> None:
    """Among those with the prefix 500 + 32 uncached tokens beat 540 + 0, and lose to 530 + 0; 4,194,304 are a full load."""
    asked = policies.request(160, blocks=10)
    pool = [endpoint(0, queued=500), endpoint(1, queued=540), endpoint(2)]
    decision = llm_d.llm_d_sticky(asked, policies.observed(pool, {0: 8, 1: 10}), 0)
    assert decision.endpoint.id == "w-0"
    assert decision.scores[0] == [532.0, 540.0, 160.0]
    pool[1].queued_tokens = 500
    pool[1].peer_queued_tokens = 30
    decision = llm_d.llm_d_sticky(asked, policies.observed(pool, {0: 8, 1: 10}), 0)
    assert decision.endpoint.id == "w-1"
    assert decision.scores[0] == [532.0, 530.0, 160.0]
    pool[0].queued_tokens = 5_000_000
    assert llm_d.llm_d_sticky(asked, policies.observed(pool, {0: 8}), 0).scores[0][0] == 4_194_304.0

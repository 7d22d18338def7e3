"""Dynamo's cost and SGLang's cache_aware, worked out by hand."""

from __future__ import annotations

import pytest

from router.policy.peers import dynamo, sglang
from tests.support import policies


@pytest.mark.parametrize(("kv_tokens", "decode_blocks", "expected"), [(3_824, 289, "w-0"), (3_856, 291, "w-1")])
def test_dynamo_adds_prefill_and_decode_blocks(kv_tokens: int, decode_blocks: int, expected: str) -> None:
    """(1,600 + 800 - 640) / 16 = 110 blocks and those that decode, against 800 / 16 + (4,800 + 800) / 16 = 400."""
    pool = [policies.endpoint(0, queued=1_000), policies.endpoint(1)]
    pool[0].peer_queued_tokens = 600
    pool[0].kv_tokens = kv_tokens
    pool[1].peer_kv_tokens = 4_800
    decision = dynamo.dynamo(policies.request(800), policies.observed(pool, {0: 40}), 0)
    assert decision.scores[0] == [110.0, 50.0]
    assert decision.scores[1] == [float(decode_blocks), 350.0]
    assert decision.endpoint.id == expected


def test_dynamo_never_credits_more_than_there_is() -> None:
    """An overlap beyond the prompt costs zero blocks, not fewer."""
    decision = dynamo.dynamo(policies.request(100), policies.observed([policies.endpoint(0)], {0: 10}), 0)
    assert decision.scores[0] == [0.0]


@pytest.mark.parametrize(
    ("loads", "expected"),
    [((64, 0), "w-0"), ((65, 0), "w-1"), ((202, 135), "w-0"), ((203, 135), "w-1"), ((450, 300), "w-0")],
)
def test_sglang_leaves_the_match_where_load_is_uneven(loads: tuple[int, int], expected: str) -> None:
    """Uneven is more than 64 apart and more than 1.5 times: 202 < 1.5 x 135 = 202.5 < 203; 450 is not over 1.5 x 300."""
    pool = [policies.endpoint(slot, running=load) for slot, load in enumerate(loads)]
    decision = sglang.sglang(policies.request(1_600), policies.observed(pool, {0: 90}), 0)
    assert decision.endpoint.id == expected
    assert ("uneven" in decision.reason) == (expected == "w-1")


@pytest.mark.parametrize(("blocks", "expected"), [(30, "w-1"), (31, "w-2")])
def test_sglang_follows_a_match_over_three_tenths(blocks: int, expected: str) -> None:
    """480 of 1,600 tokens are 0.3 and a miss, which goes to the first of the least loaded; 496 are a match."""
    pool = [
        policies.endpoint(0, running=2),
        policies.endpoint(1),
        policies.endpoint(2, running=9),
        policies.endpoint(3),
    ]
    seen = policies.observed(pool, {2: blocks})
    for state in range(5):
        assert sglang.sglang(policies.request(1_600), seen, state).endpoint.id == expected

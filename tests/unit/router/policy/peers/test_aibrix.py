"""AIBrix's prefix-cache and prefix-cache-preble, worked out by hand."""

from __future__ import annotations

import math

import pytest

from router.policy import types
from router.policy.peers import aibrix
from tests.support import policies


def pool_of(*loads: int) -> list[types.Endpoint]:
    return [policies.endpoint(slot, running=load) for slot, load in enumerate(loads)]


@pytest.mark.parametrize(("loads", "expected"), [((16, 0, 0), "w-0"), ((17, 0, 1), "w-1")])
def test_only_the_least_loaded_where_load_is_uneven(loads: tuple[int, ...], expected: str) -> None:
    """16 requests apart is even (and within 5.3 + 2 x 9.2); 17 is not, and only those with the fewest are matched."""
    asked = policies.request(1_600, blocks=100)
    decision = aibrix.aibrix(asked, policies.observed(pool_of(*loads), {0: 100, 1: 2, 2: 50}), 0)
    assert decision.endpoint.id == expected


@pytest.mark.parametrize(("last", "expected"), [(2, "w-5"), (7, "w-0")])
def test_match_over_two_deviations_is_left(last: int, expected: str) -> None:
    """14, 2, 2, 2, 2, 2: 4 + 2 x sqrt(120 / 5) = 13.8 < 14. With a 7 at the end: 4.83 + 2 x sqrt(120.8 / 5) = 14.67."""
    asked = policies.request(1_600, blocks=100)
    decision = aibrix.aibrix(asked, policies.observed(pool_of(14, 2, 2, 2, 2, last), {0: 100, 5: 10}), 0)
    assert decision.endpoint.id == expected


def test_no_match_within_the_bound_is_least_request() -> None:
    """Where nobody matches, or only one that is over the bound, the fewest requests of all."""
    asked = policies.request(1_600, blocks=100)
    pool = pool_of(14, 2, 2, 1, 2, 2)
    assert aibrix.aibrix(asked, policies.observed(pool), 0).endpoint.id == "w-3"
    assert aibrix.aibrix(asked, policies.observed(pool, {0: 100}), 0).endpoint.id == "w-3"
    assert aibrix.aibrix(asked, policies.observed(pool_of(3)), 0).endpoint.id == "w-0"


@pytest.mark.parametrize(("blocks", "expected"), [(151, "w-1"), (152, "w-0")])
def test_matches_are_compared_in_whole_per_cent(blocks: int, expected: str) -> None:
    """151 of 200 blocks are 75 % as 150 are, so the fewer requests win; 152 are 76 %."""
    asked = policies.request(3_200, blocks=200)
    decision = aibrix.aibrix(asked, policies.observed(pool_of(3, 1, 0), {0: blocks, 1: 150}), 0)
    assert decision.endpoint.id == expected


@pytest.mark.parametrize(
    ("uncached", "prompt", "expected_ms"),
    [
        (100, 1_000, 55.0 + 0.8),
        (200, 1_000, -295 + 625 - 256 + 0.8),
        (1_000, 1_000, 271.06428 + 10.52444263 + 0.8),
        (1_000, 2_000, 271.06428 + 10.52444263 + (0.93 + 0.398) / 2),
        (5_000, 8_000, 1_355.3214 + 10.52444263 + 3.72 + 0.398 - 18.425 + 48.25 + 135.0),
    ],
)
def test_preble_cost_model(uncached: int, prompt: int, expected_ms: float) -> None:
    """Mistral 7B on a V100, each branch of its linear, attention and quadratic parts."""
    assert aibrix.preble_prefill_s(uncached, prompt) * 1_000 == pytest.approx(expected_ms)


def test_preble_cost_of_the_window() -> None:
    """Two unique prompts of 1,000 tokens: 2 x (282.4 / 0.9 ms + 45 x 0.15 s); one of 8,000 with 5,000 uncached: 7.8 s."""
    pool = pool_of(0, 0, 0)
    for _ in range(2):
        pool[0].placed(1_000, 1_000, 0.0)
    pool[1].placed(8_000, 5_000, 0.0)
    assert aibrix.preble_cost_s(pool[0]) == pytest.approx(14.12753, abs=1e-5)
    assert aibrix.preble_cost_s(pool[1]) == pytest.approx(7.815826, abs=1e-5)
    assert aibrix.preble_cost_s(pool[2]) == 0.0
    decision = aibrix.aibrix_preble(policies.request(), policies.observed(pool[:2]), 0)
    assert decision.endpoint.id == "w-1"
    pool[1].fade(math.exp(-1.0), 0.0)
    assert aibrix.preble_cost_s(pool[1]) == pytest.approx(7.815826 / math.e, abs=1e-5)


@pytest.mark.parametrize(("blocks", "prompt", "expected"), [(50, 1_600, "w-2"), (51, 1_616, "w-1")])
def test_preble_follows_a_match_over_half(blocks: int, prompt: int, expected: str) -> None:
    """800 of 1,600 tokens are half and go by cost; 816 of 1,616 to the longest match with the fewest recent requests."""
    pool = pool_of(5, 3, 0)
    for endpoint, count in zip(pool, (2, 1, 0), strict=True):
        for _ in range(count):
            endpoint.placed(1_000, 10, 0.0)
    seen = policies.observed(pool, {0: blocks, 1: blocks})
    decision = aibrix.aibrix_preble(policies.request(prompt), seen, 0)
    assert decision.endpoint.id == expected
    assert decision.scores[1] == [2.0, 1.0, 0.0]


@pytest.mark.parametrize(("load", "expected"), [(16, "w-0"), (17, "w-2")])
def test_preble_takes_the_least_loaded_where_load_is_uneven(load: int, expected: str) -> None:
    """17 requests apart, the longest match is looked for among those with the fewest requests only."""
    seen = policies.observed(pool_of(load, 0, 0), {0: 90, 2: 20})
    decision = aibrix.aibrix_preble(policies.request(1_600), seen, 0)
    assert decision.endpoint.id == expected
    assert ("least loaded" in decision.reason) == (load == 17)

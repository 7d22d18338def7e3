"""production-stack's longest match and Ray Serve's prefix affinity, worked out by hand."""

from __future__ import annotations

import pytest

from router.policy.peers import production_stack, ray_serve
from tests.support import policies


def test_production_stack_draws_among_the_longest_match_whatever_the_load() -> None:
    """Both holders of the longest match are taken evenly, a shorter match and idle endpoints never."""
    pool = [policies.endpoint(0, running=500), policies.endpoint(1, running=1), *map(policies.endpoint, range(2, 6))]
    seen = policies.observed(pool, {0: 5, 1: 5, 2: 4})
    counts = {"w-0": 0, "w-1": 0}
    state = 3
    for _ in range(400):
        decision = production_stack.production_stack(policies.request(), seen, state)
        state = decision.state
        counts[decision.endpoint.id] += 1
    assert min(counts.values()) > 150


@pytest.mark.parametrize(("blocks", "reached"), [({3: 1}, 1), ({}, 4)])
def test_production_stack_takes_the_shortest_match_and_draws_without_one(blocks: dict[int, int], reached: int) -> None:
    """One block is a match; with none every endpoint is drawn."""
    seen = policies.observed([policies.endpoint(slot) for slot in range(4)], blocks)
    drawn = {production_stack.production_stack(policies.request(), seen, state).endpoint.id for state in range(60)}
    assert len(drawn) == reached


@pytest.mark.parametrize(("blocks", "expected"), [(10, "w-0"), (9, "w-2")])
def test_ray_follows_a_match_from_a_tenth_on(blocks: int, expected: str) -> None:
    """160 of 1,600 tokens are 0.1 and followed to the longest queue; 144 are not: the smallest tree."""
    pool = [policies.endpoint(0, running=900), policies.endpoint(1), policies.endpoint(2, running=3)]
    for endpoint, tree in zip(pool, (10, 6_000, 5_999), strict=True):
        endpoint.placed_tokens = tree
    pool[0].placed_tokens = 10_000
    decision = ray_serve.ray(policies.request(1_600), policies.observed(pool, {0: blocks}), 0)
    assert decision.endpoint.id == expected
    assert decision.scores[1] == [10_000.0, 6_000.0, 5_999.0]


def test_ray_takes_the_fewest_requests_among_equals() -> None:
    """Of equal matches, and of equal trees, the shorter queue."""
    pool = [policies.endpoint(0, running=4), policies.endpoint(1, running=1), policies.endpoint(2)]
    pool[1].peer_running = 2
    asked = policies.request(160)
    assert ray_serve.ray(asked, policies.observed(pool, {0: 5, 1: 5, 2: 4}), 0).endpoint.id == "w-1"
    pool[2].placed_tokens = 1
    assert ray_serve.ray(asked, policies.observed(pool), 0).endpoint.id == "w-1"

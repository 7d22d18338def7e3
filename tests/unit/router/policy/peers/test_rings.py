"""Hash rings, vLLM router's consistent hash and KubeAI's bounded loads, against a ring that is built."""

from __future__ import annotations

import bisect
import collections

import pytest

from router.policy import pickers, types
from router.policy.peers import kubeai, rings, vllm_router
from tests.support import policies


def ring_of(pool: list[types.Endpoint], replicas: int) -> list[tuple[int, str]]:
    """All places of a pool, in order, and whose they are."""
    return sorted((place, endpoint.id) for endpoint in pool for place in rings.places(endpoint, replicas))


def walk(pool: list[types.Endpoint], key: int, replicas: int) -> list[str]:
    """The endpoints in the order in which a walk around the ring meets them, from `key` on."""
    ring = ring_of(pool, replicas)
    at = bisect.bisect_left(ring, (key, ""))
    return list(dict.fromkeys(name for _, name in ring[at:] + ring[:at]))


def test_places_are_many_distinct_and_the_same_everywhere() -> None:
    """An endpoint's places follow from its id alone, in order."""
    first, twin, other = policies.endpoint(0), policies.endpoint(7, name="w-0"), policies.endpoint(1)
    assert rings.places(first, 160) == rings.places(twin, 160) == sorted(rings.places(first, 160))
    assert len({*rings.places(first, 160), *rings.places(other, 160)}) == 320
    assert len(rings.places(first, 256)) == 256


def test_distance_is_clockwise_and_wraps() -> None:
    """A key on a place is there; one behind the last place goes on to the first."""
    endpoint = policies.endpoint(0)
    own = rings.places(endpoint, 160)
    assert rings.distance(endpoint, own[5], 160) == 0
    assert rings.distance(endpoint, own[5] + 1, 160) == own[6] - own[5] - 1
    assert rings.distance(endpoint, own[-1] + 1, 160) == own[0] + (1 << 64) - own[-1] - 1


def test_vllm_router_takes_the_next_of_160_places_by_session() -> None:
    """Each session goes to the next endpoint on the ring; its prompt does not matter; all get a share."""
    pool = [policies.endpoint(slot, running=slot * 50) for slot in range(6)]
    seen = policies.observed(pool)
    counts: collections.Counter[str] = collections.Counter()
    for session in range(600):
        decision = vllm_router.vllm_router(policies.request(session=session, blocks=session % 4), seen, session)
        assert decision.endpoint.id == walk(pool, pickers.draw(session), 160)[0]
        counts[decision.endpoint.id] += 1
    assert len(counts) == 6
    assert max(counts.values()) < 200


def test_vllm_router_without_a_session_takes_the_whole_prompt() -> None:
    """The hash of the last full block decides, which stands for all before it; without one it is drawn."""
    pool = [policies.endpoint(slot) for slot in range(6)]
    seen = policies.observed(pool)
    for blocks in range(1, 60):
        decision = vllm_router.vllm_router(policies.request(blocks=blocks), seen, blocks * 7)
        assert decision.endpoint.id == walk(pool, pickers.draw(blocks), 160)[0]
    assert len({vllm_router.vllm_router(policies.request(), seen, state).endpoint.id for state in range(60)}) == 6


def test_vllm_router_moves_only_the_keys_of_the_endpoint_that_leaves() -> None:
    """A session keeps its endpoint when another one leaves."""
    pool = [policies.endpoint(slot) for slot in range(6)]
    left = [endpoint for endpoint in pool if endpoint.slot != 2]

    def placed(members: list[types.Endpoint]) -> list[str]:
        seen = policies.observed(members)
        return [vllm_router.vllm_router(policies.request(session=key), seen, 0).endpoint.id for key in range(200)]

    for before, after in zip(placed(pool), placed(left), strict=True):
        assert after == before or before == "w-2"


@pytest.mark.parametrize(("home_load", "others_load", "place"), [(5, 10, 0), (6, 9, 1), (0, 0, 0), (1, 0, 1)])
def test_kubeai_walks_on_from_an_endpoint_over_the_bound(home_load: int, others_load: int, place: int) -> None:
    """With 15 requests on 4 endpoints the bound is 1.25 x 16 / 4 = 5; with one, 1.25 x 2 / 4 = 0.625."""
    pool = [policies.endpoint(slot) for slot in range(4)]
    order = walk(pool, pickers.draw(2), 256)
    by_name = {endpoint.id: endpoint for endpoint in pool}
    by_name[order[0]].running = home_load
    by_name[order[2]].running, by_name[order[3]].peer_running = others_load // 2, others_load - others_load // 2
    decision = kubeai.kubeai(policies.request(blocks=30), policies.observed(pool), 0)
    assert decision.endpoint.id == order[place]
    assert ("over the bound" in decision.reason) == (place > 0)


def test_kubeai_takes_the_next_of_256_places() -> None:
    """While nothing is in flight every prompt goes to the next place on the ring."""
    pool = [policies.endpoint(slot) for slot in range(6)]
    seen, ring = policies.observed(pool), ring_of(pool, 256)
    for prompt in range(2_000):
        key = pickers.draw(prompt)
        at = bisect.bisect_left(ring, (key, "")) % len(ring)
        assert kubeai.kubeai(types.Request(9, [0, prompt], None, None), seen, 0).endpoint.id == ring[at][1]


def test_kubeai_walks_on_to_the_next_that_fits() -> None:
    """Two neighbours over the bound are both passed."""
    pool = [policies.endpoint(slot) for slot in range(5)]
    order = walk(pool, pickers.draw(2), 256)
    for endpoint in pool:
        endpoint.running = 20 if endpoint.id in order[:2] else 1
    assert kubeai.kubeai(policies.request(blocks=30), policies.observed(pool), 0).endpoint.id == order[2]


@pytest.mark.parametrize(("blocks", "key"), [(30, 2), (2, 2), (1, 1)])
def test_kubeai_hashes_the_first_two_blocks(blocks: int, key: int) -> None:
    """The second block's hash decides whatever follows it; the first's where there is no more."""
    pool = [policies.endpoint(slot) for slot in range(8)]
    seen = policies.observed(pool)
    for state in range(4):
        decision = kubeai.kubeai(policies.request(blocks=blocks), seen, state)
        assert decision.endpoint.id == walk(pool, pickers.draw(key), 256)[0]


def test_kubeai_spreads_prompts_without_a_full_block() -> None:
    """Prompts too short to hash do not pile up on one endpoint."""
    seen = policies.observed([policies.endpoint(slot) for slot in range(6)])
    assert len({kubeai.kubeai(policies.request(), seen, state).endpoint.id for state in range(60)}) == 6

"""What profiles are made of: filters, scorers and pickers."""

from __future__ import annotations

import collections

import pytest

from penstock.api.types import EngineSpeed
from router.policy import candidates, pickers, scorers, types
from tests.support import policies


def test_splitmix_gives_the_published_values() -> None:
    """The stream that starts at 1234567 is that of the reference implementation (prng.di.unimi.it/splitmix64.c)."""
    state = 1_234_567
    drawn = []
    for _ in range(5):
        state = pickers.mix(state)
        drawn.append(pickers.draw(state))
    assert drawn == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_lowest_takes_ties_in_turn() -> None:
    """One lowest score wins alone; equal ones are taken in turn by the state."""
    assert pickers.lowest([3.0, 1.0, 2.0], 17) == 1
    assert [pickers.lowest([1.0, 2.0, 1.0, 1.0], state) for state in range(6)] == [0, 2, 3, 0, 2, 3]


def test_small_pool_is_scored_whole() -> None:
    """Up to 16 endpoints all are candidates."""
    observed = policies.observed([policies.endpoint(slot) for slot in range(16)], {3: 2})
    assert candidates.promising(policies.request(), observed) == list(observed.endpoints)


@pytest.mark.parametrize("count", [17, 60, 300])
def test_large_pool_keeps_the_best_match_and_an_idle_endpoint(count: int) -> None:
    """The shortlist has each of the longest matches' least loaded and a least loaded of the rest, once each, and stays short."""
    endpoints = [policies.endpoint(slot, running=9) for slot in range(count)]
    endpoints[5].running = 1
    blocks = dict.fromkeys((1, 2, 3, 4, 5, 6), 30) | {7: 20, 8: 10, 9: 5, 10: 2}
    endpoints[12].running = 0
    observed = policies.observed(endpoints, blocks)
    promising = candidates.promising(policies.request(), observed)
    slots = [endpoint.slot for endpoint in promising]
    assert 5 in slots
    assert 12 in slots
    assert {7, 8} <= set(slots)
    assert max(collections.Counter(slots).values()) == 1
    assert len(slots) <= candidates.PER_LEVEL * (candidates.LEVELS + 1)


def test_matched_tokens_follow_the_levels() -> None:
    """Each candidate gets the tokens of its own level, in the candidates' order."""
    endpoints = [policies.endpoint(slot) for slot in range(4)]
    observed = policies.observed(endpoints, {0: 5, 2: 9})
    assert candidates.matched_tokens(observed, list(reversed(endpoints))) == [0, 9 * 16, 0, 5 * 16]
    everyone = policies.observed(endpoints, dict.fromkeys(range(4), 4))
    assert candidates.matched_tokens(everyone, endpoints) == [64] * 4


def test_a_prompt_that_is_all_cached_still_costs_one_token() -> None:
    """An engine computes at least the last token."""
    ready = policies.endpoint(0)
    assert scorers.prefill_ms(policies.request(100), [ready], [100]) == scorers.prefill_ms(
        policies.request(100), [ready], [99]
    )
    assert scorers.prefill_ms(policies.request(100), [ready], [900]) == pytest.approx(
        scorers.prefill_ms(policies.request(901), [ready], [900])
    )


def test_scorers_add_what_peers_said() -> None:
    """Waits, steps and requests sum what is in flight from here and from the other gateways."""
    busy = types.Endpoint("w", 3, EngineSpeed(base_ms=1, ms_per_token=0.5, ms_per_seq=2, ms_per_kv_token=0.25))
    busy.queued_tokens, busy.peer_queued_tokens = 10, 6
    busy.running, busy.peer_running = 3, 4
    busy.kv_tokens, busy.peer_kv_tokens = 40, 60
    assert scorers.wait_ms([busy]) == [8.0] == [busy.wait_ms()]
    assert scorers.step_ms([busy]) == [7 * 2 + 100 * 0.25]
    assert scorers.requests([busy]) == [7.0] == [float(busy.requests())]
    assert busy.bit == 8


def test_identity_is_the_same_in_every_gateway() -> None:
    """FNV-1a of the id, by its published test vectors."""
    speed = policies.SPEED
    assert types.Endpoint("a", 0, speed).identity == 0xAF63DC4C8601EC8C
    assert types.Endpoint("foobar", 9, speed).identity == 0x85944171F73967E8


def test_evicted_tokens_are_worth_less_the_older_they_are() -> None:
    """What does not fit is computed again at the endpoint's speed, halved for what lay unused for a minute."""
    full = policies.endpoint(0)
    assert scorers.evict_ms(policies.request(1_000), [full], [0]) == [0.0]
    full.free_tokens = 300.0
    assert scorers.evict_ms(policies.request(1_000), [full], [200]) == pytest.approx([50.0])
    full.evict_weight = scorers.evict_weight(60.0)
    assert scorers.evict_ms(policies.request(1_000), [full], [200]) == pytest.approx([25.0])
    assert scorers.evict_ms(policies.request(1_000), [full], [900]) == [0.0]
    assert scorers.evict_weight(None) == scorers.evict_weight(0.0) == 1.0

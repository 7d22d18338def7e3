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


@pytest.mark.parametrize(
    ("scores", "gains", "chosen"),
    [
        ([100.0, 105.0, 106.0], [0, 10, 20], {1}),
        ([100.0, 105.0, 106.0], [10, 10, 20], {0}),
        ([100.0, 102.0, 101.0], [0, 10, 10], {2}),
        ([100.0, 102.0, 102.0], [0, 10, 10], {1, 2}),
        ([100.0, 100.0, 100.0], [5, 5, 4], {0, 1}),
        ([100.0, 200.0], [0, 9], {0}),
        ([0.0, 0.0], [0, 0], {0, 1}),
    ],
)
def test_nearly_the_same_cost_goes_by_the_gain(scores: list[float], gains: list[int], chosen: set[int]) -> None:
    """The highest gain within a twentieth of the lowest score, of equal ones the lowest, and equals in turn."""
    assert {pickers.nearly_lowest(scores, gains, 0.05, state) for state in range(6)} == chosen


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


SPEED = EngineSpeed(base_ms=1, ms_per_token=0.5, ms_per_seq=2, ms_per_kv_token=0.25, step_base_ms=3)


def busy(running: int = 3, kv_tokens: int = 40) -> types.Endpoint:
    """An endpoint with sequences of this gateway, and four with 60 KV tokens of another."""
    made = types.Endpoint("w", 3, SPEED)
    made.running, made.peer_running = running, 4
    made.kv_tokens, made.peer_kv_tokens = kv_tokens, 60
    made.held_tokens, made.peer_fresh_tokens = kv_tokens, 60
    return made


def test_waits_add_what_peers_said_and_fall_as_time_passes() -> None:
    """The wait is what is queued here and by peers, less the time since the prefill under way began."""
    loaded = busy()
    loaded.queued_ms, loaded.peer_queued_ms, loaded.prefill_since_ms = 50.0, 7.0, 1_000.0
    seen = policies.observed([loaded])
    for now_ms, expected in ((1_000.0, 57.0), (1_030.0, 27.0), (1_050.0, 7.0), (9_000.0, 7.0)):
        seen.now_ms = now_ms
        assert scorers.wait_ms(policies.request(), seen, [loaded]) == [expected] == [loaded.wait_ms(now_ms)]
    loaded.queued_ms = 0.0
    assert scorers.requests([loaded]) == [7.0] == [float(loaded.requests())]
    assert loaded.bit == 8


@pytest.mark.parametrize(("capacity", "lacking"), [(1_625.0, 0), (1_600.0, 25)])
def test_wait_for_memory(capacity: float, lacking: int) -> None:
    """A cache that running sequences fill makes a request wait until as much of them has ended as it lacks."""
    full = busy(running=0, kv_tokens=0)
    full.capacity_tokens, full.peer_generated_tokens = capacity, 160
    seen = policies.observed([full])
    seen.output_tokens = 70.0
    # 4 sequences hold 60 prompt tokens and 160 others: 220. They grow by 70 each to 500, and the request needs 1,055 + 70: 1,625 in all.
    # A step takes 3 + 4 x 2 + 60 x 0.25 = 26 ms, and an answer 70 of them.
    found = scorers.wait_ms(policies.request(1_055), seen, [full])
    assert found == pytest.approx([lacking / 500 * 70 * 26])


def test_prefill_takes_part_in_a_step_of_what_runs() -> None:
    """The first step costs what its sequences add, of this gateway and of the others."""
    alone = types.Endpoint("w", 0, SPEED)
    with_seven, without = scorers.prefill_ms(policies.request(100), [busy(), alone], [0, 0])
    assert with_seven - without == pytest.approx(7 * 2 + 100 * 0.25)


def test_slower_streams_are_worth_their_ratio_to_first_tokens() -> None:
    """Own steps, prefills in between, and what the others' steps become, each ms worth ten."""
    loaded = busy()
    step_ms = 7 * 2 + 100 * 0.25
    others_ms = 7 * (2 + 40 * 0.25)
    assert scorers.stream_ms(policies.request(40), policies.observed([loaded]), [loaded]) == pytest.approx(
        [10 * (step_ms + others_ms)]
    )
    # 10 s of prefills of this gateway and 5 s of another in 30 s: half of the time.
    loaded.busy_ms, loaded.peer_busy_ms = 10_000.0, 5_000.0
    assert scorers.stream_ms(policies.request(40), policies.observed([loaded]), [loaded]) == pytest.approx(
        [10 * (step_ms + 2 * (3 + step_ms) + others_ms)]
    )


def test_streams_that_stand_still_count_by_an_answers_length() -> None:
    """Seven streams wait for a prefill, each spread over 100 tokens; an idle worker stalls nobody."""
    loaded, idle = busy(), types.Endpoint("i", 1, SPEED)
    seen = policies.observed([loaded, idle])
    seen.output_tokens = 100.0
    assert scorers.stall_ms(policies.request(140), seen, [loaded, idle], [40, 40]) == pytest.approx(
        [10 / 100 * 7 * 50.0, 0.0]
    )
    # Of 150 ms, 50 are beyond what nobody notices, and count twice.
    assert scorers.stall_ms(policies.request(340), seen, [loaded, idle], [40, 40]) == pytest.approx(
        [10 / 100 * 7 * (150.0 + 50.0), 0.0]
    )


def test_identity_is_the_same_in_every_gateway() -> None:
    """FNV-1a of the id, by its published test vectors."""
    speed = policies.SPEED
    assert types.Endpoint("a", 0, speed).identity == 0xAF63DC4C8601EC8C
    assert types.Endpoint("foobar", 9, speed).identity == 0x85944171F73967E8


def test_evicted_tokens_are_computed_again_four_times() -> None:
    """What does not fit is computed again; where blocks are evicted already, all that is new pushes something out."""
    full = policies.endpoint(0)
    asked = policies.request(1_000)
    assert scorers.evict_ms(asked, [full], [0]) == [0.0]
    full.free_tokens = 300.0
    assert scorers.evict_ms(asked, [full], [200]) == pytest.approx([4 * 50.0])
    full.evicts = True
    assert scorers.evict_ms(asked, [full], [200]) == pytest.approx([4 * 80.0])
    assert scorers.evict_ms(asked, [full], [1_000]) == pytest.approx([4 * 0.1])


def test_whoever_comes_later_waits_for_this_prompt_too() -> None:
    """100 ms are queued, in which two requests come, each of which this prompt's 90 ms keep waiting; no queue, no followers."""
    queued, idle = policies.endpoint(0), policies.endpoint(1)
    queued.queued_ms = 100.0
    seen = policies.observed([queued, idle])
    asked = policies.request(1_000)
    assert scorers.delay_ms(asked, seen, [queued, idle], [100, 0]) == [0.0, 0.0]
    seen.followers_per_ms = 0.02
    assert scorers.delay_ms(asked, seen, [queued, idle], [100, 0]) == pytest.approx([2 * 90.0, 0.0])


def test_followers_come_as_requests_did_lately() -> None:
    """Six requests and 6 s of prefills in 60 s of two endpoints, other gateways' included: each ms of a queue is a ninth longer."""
    pair = [policies.endpoint(0), policies.endpoint(1)]
    assert types.followers_per_ms(pair) == types.followers_per_ms([]) == 0.0
    for endpoint in pair:
        for _ in range(3):
            endpoint.placed(100, 100, 500.0)
        endpoint.peer_busy_ms = 1_500.0
    assert types.followers_per_ms(pair) == pytest.approx(6 / 60_000 / 0.9)
    pair[0].fade(1.0, 0.5)
    assert pair[0].arrived == 1.5


def test_evicted_tokens_cost_their_attention_too() -> None:
    """What is pushed out is taken to lie as deep as this prompt's middle."""
    speed = EngineSpeed(base_ms=1, ms_per_token=0.1, ms_per_token2=0.001)
    full = policies.endpoint(0, speed=speed)
    full.evicts = True
    assert scorers.evict_ms(policies.request(400), [full], [100]) == pytest.approx([4 * 300 * (0.1 + 0.2)])

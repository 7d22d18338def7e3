"""Routing profiles: worked examples of each."""

from __future__ import annotations

import collections

import pytest

from penstock.api.types import EngineSpeed
from router.policy import pickers, profiles, types
from tests.support import policies


def chosen(decide: types.Policy, request: types.Request, observed: types.Observed, state: int = 0) -> str:
    return decide(request, observed, state).endpoint.id


def test_wrong_name_lists_what_is_allowed() -> None:
    """A profile that does not exist is an error with all names, never a fallback."""
    with pytest.raises(profiles.UnknownProfileError) as caught:
        profiles.by_name("fastest")
    assert str(caught.value) == (
        "routing profile 'fastest' does not exist; allowed: aibrix, aibrix-preble, default, dynamo, kubeai, least-request, "
        "llm-d, llm-d-sticky, power-of-two, prefix-cache, production-stack, random, ray, round-robin, session-affinity, "
        "sglang, vllm-router"
    )


@pytest.mark.parametrize("profile", profiles.PROFILES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("count", [1, 2, 16, 17, 40])
def test_every_profile_decides_for_any_pool(profile: profiles.Profile, count: int) -> None:
    """Each profile takes one of the endpoints, is a function of its arguments, and scores each candidate by each component."""
    observed = policies.observed([policies.endpoint(slot) for slot in range(count)], {0: 3})
    for session in (None, 7):
        request = policies.request(session=session)
        decision = profile.decide(request, observed, 5)
        assert decision.endpoint in observed.endpoints
        assert policies.facts(decision) == policies.facts(profile.decide(request, observed, 5))
        assert [len(row) for row in decision.scores] == [len(decision.candidates)] * len(decision.components)
        assert decision.endpoint in decision.candidates
        assert decision.matched_tokens == (3 * policies.TOKENS_PER_BLOCK if decision.endpoint.slot == 0 else 0)
    assert profiles.by_name(profile.name) is profile


def test_default_takes_the_longest_prefix_when_idle() -> None:
    """With nothing queued the endpoint that has most of the prompt answers soonest."""
    observed = policies.observed([policies.endpoint(slot) for slot in range(3)], {0: 10, 1: 40})
    decision = profiles.default(policies.request(1_000), observed, 0)
    assert decision.endpoint.id == "w-1"
    assert decision.matched_tokens == 640
    # 10 ms + 0.1 ms for each of 840, 360 and 1,000 uncached tokens.
    assert decision.scores[1] == pytest.approx([94.0, 46.0, 110.0])


@pytest.mark.parametrize(("queued", "expected"), [(0, "w-0"), (694, "w-0"), (696, "w-1")])
def test_default_leaves_a_prefix_when_its_queue_costs_more(queued: int, expected: str) -> None:
    """640 cached tokens are worth a wait of 640 queued tokens, and of those by which 110 ms are the same: 55."""
    endpoints = [policies.endpoint(0, queued=queued), policies.endpoint(1)]
    assert chosen(profiles.default, policies.request(1_000), policies.observed(endpoints, {0: 40})) == expected


def test_default_counts_what_other_gateways_queued() -> None:
    """Load that a peer has placed weighs as much as one's own."""
    endpoints = [policies.endpoint(0), policies.endpoint(1, queued=100)]
    endpoints[0].peer_queued_ms = 20.0
    assert chosen(profiles.default, policies.request(), policies.observed(endpoints)) == "w-1"


@pytest.mark.parametrize(("queued_fast", "expected"), [(0, "fast"), (1_000, "fast"), (1_200, "slow")])
def test_default_weighs_unequal_speeds(queued_fast: int, expected: str) -> None:
    """A worker twice as fast takes the request until its queue makes up for the difference."""
    fast = policies.endpoint(0, speed=EngineSpeed(base_ms=10, ms_per_token=0.1), queued=queued_fast, name="fast")
    slow = policies.endpoint(1, speed=EngineSpeed(base_ms=20, ms_per_token=0.2), name="slow")
    # Slow: 20 + 200 ms. Fast: 10 + 100 ms and 0.1 ms per queued token: even at 1,100.
    assert chosen(profiles.default, policies.request(1_000), policies.observed([fast, slow])) == expected


def test_default_counts_attention_over_the_prefix_and_decoding() -> None:
    """The quadratic term covers the cached tokens, and each decoding sequence adds its share of the step."""
    speed = EngineSpeed(base_ms=1, ms_per_token=0.1, ms_per_token2=0.001, ms_per_seq=0.5, ms_per_kv_token=0.01)
    busy = policies.endpoint(0, speed=speed, running=4)
    busy.kv_tokens = 300
    decision = profiles.default(policies.request(260), policies.observed([busy], {0: 10}), 0)
    uncached, cached = 100, 160
    prefill_ms = 1 + 4 * 0.5 + 300 * 0.01 + 0.1 * uncached + 0.001 * uncached * (cached + uncached / 2)
    scores = {name: row[0] for name, row in zip(decision.components, decision.scores, strict=True)}
    assert scores["prefill_ms"] == pytest.approx(prefill_ms)
    assert scores["stream_ms"] == pytest.approx(10 * (4 * 0.5 + 300 * 0.01 + 4 * (0.5 + 260 * 0.01)))


@pytest.mark.parametrize(("queued", "expected"), [(3_000, "w-1"), (5_000, "w-0")])
def test_default_counts_what_it_pushes_out(queued: int, expected: str) -> None:
    """A full cache makes way for a free one until the queue there costs more than to compute again what would be lost."""
    full, free = policies.endpoint(0), policies.endpoint(1, queued=queued)
    full.free_tokens, full.evicts = 0.0, True
    seen = policies.observed([full, free])
    # Full: 400 ms to compute 1,000 evicted tokens again four times. Free: 300 or 500 ms in the queue.
    assert chosen(profiles.default, policies.request(1_000), seen) == expected


def test_default_spreads_ties() -> None:
    """Equal endpoints get equal numbers of requests."""
    observed = policies.observed([policies.endpoint(slot) for slot in range(4)])
    counts: collections.Counter[str] = collections.Counter()
    state = 1
    for _ in range(400):
        decision = profiles.default(policies.request(), observed, state)
        state = decision.state
        counts[decision.endpoint.id] += 1
    assert set(counts) == {"w-0", "w-1", "w-2", "w-3"}
    assert max(counts.values()) - min(counts.values()) <= 60


def test_least_request_counts_peers() -> None:
    """The fewest requests in flight from all gateways."""
    endpoints = [policies.endpoint(0, running=2), policies.endpoint(1, running=1), policies.endpoint(2, running=3)]
    endpoints[1].peer_running = 5
    assert chosen(profiles.least_request, policies.request(), policies.observed(endpoints)) == "w-0"


def test_least_request_finds_the_idle_one_of_many() -> None:
    """Beyond the size that is scored whole, the shortlist still brings the least loaded."""
    endpoints = [policies.endpoint(slot, running=0 if slot == 29 else 5) for slot in range(40)]
    decision = profiles.least_request(policies.request(), policies.observed(endpoints), 3)
    assert decision.endpoint.id == "w-29"
    assert len(decision.candidates) <= 16


def test_round_robin_takes_each_in_turn() -> None:
    """Endpoints are taken one after another, whatever their load."""
    observed = policies.observed([policies.endpoint(slot, running=slot * 10) for slot in range(3)])
    state = 0
    order = []
    for _ in range(6):
        decision = profiles.round_robin(policies.request(), observed, state)
        state = decision.state
        order.append(decision.endpoint.slot)
    assert order == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("decide", [profiles.random, profiles.power_of_two])
def test_drawing_reaches_everyone_evenly(decide: types.Policy) -> None:
    """Drawn endpoints are spread over the pool."""
    observed = policies.observed([policies.endpoint(slot) for slot in range(5)])
    counts: collections.Counter[int] = collections.Counter()
    state = 9
    for _ in range(2_000):
        decision = decide(policies.request(), observed, state)
        state = decision.state
        counts[decision.endpoint.slot] += 1
    assert len(counts) == 5
    assert all(300 < count < 500 for count in counts.values())


def test_power_of_two_takes_the_less_loaded_of_two_distinct() -> None:
    """Two different endpoints are drawn, and the one with fewer requests wins."""
    observed = policies.observed([policies.endpoint(slot, running=slot) for slot in range(6)])
    for state in range(200):
        decision = profiles.power_of_two(policies.request(), observed, state)
        first, second = decision.candidates
        assert first is not second
        assert decision.endpoint.running == min(first.running, second.running)


@pytest.mark.parametrize(
    ("loads", "expected"),
    [((16, 0), "w-0"), ((17, 0), "w-1"), ((40, 20), "w-0"), ((41, 20), "w-1")],
)
def test_prefix_cache_leaves_an_overloaded_match(loads: tuple[int, int], expected: str) -> None:
    """The match keeps its requests up to 16 more than the least loaded, or twice as many; then the next one takes over."""
    endpoints = [policies.endpoint(0, running=loads[0]), policies.endpoint(1, running=loads[1])]
    decision = profiles.prefix_cache(policies.request(), policies.observed(endpoints, {0: 30}), 0)
    assert decision.endpoint.id == expected
    assert ("overloaded" in decision.reason) == (expected == "w-1")


def test_prefix_cache_takes_the_less_loaded_of_equal_matches() -> None:
    """Among equally long matches the one with fewer requests wins."""
    endpoints = [policies.endpoint(0, running=3), policies.endpoint(1, running=1), policies.endpoint(2)]
    assert chosen(profiles.prefix_cache, policies.request(), policies.observed(endpoints, {0: 5, 1: 5})) == "w-1"


def test_session_affinity_moves_only_the_sessions_of_the_endpoint_that_leaves() -> None:
    """A session keeps its endpoint when another one leaves, whatever the order of the list."""
    endpoints = [policies.endpoint(slot) for slot in range(6)]
    sessions = [pickers.draw(number) for number in range(300)]

    def place(members: list[types.Endpoint]) -> dict[int, str]:
        seen = policies.observed(members)
        return {each: chosen(profiles.session_affinity, policies.request(session=each), seen) for each in sessions}

    before = place(endpoints)
    after = place(list(reversed([each for each in endpoints if each.slot != 2])))
    moved = {session for session in sessions if before[session] != after[session]}
    assert moved == {session for session in sessions if before[session] == "w-2"}
    assert set(before.values()) == {each.id for each in endpoints}


def test_session_affinity_without_a_session_is_least_request() -> None:
    """A request without a session goes where the fewest requests are."""
    endpoints = [policies.endpoint(0, running=1), policies.endpoint(1)]
    assert chosen(profiles.session_affinity, policies.request(), policies.observed(endpoints)) == "w-1"

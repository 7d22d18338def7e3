"""What holds for every routing profile, on any pool, load and match."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy import profiles, types
from tests.support import policies

LOADS = st.integers(0, 300)
TOKENS = st.integers(0, 300_000)


@st.composite
def pools(draw: st.DrawFn) -> tuple[types.Observed, types.Request]:
    """Endpoints with gaps in their slots, and a prompt of which each has a leading part."""
    hashes = draw(st.integers(0, 30))
    pool: list[types.Endpoint] = []
    depths: dict[int, int] = {}
    for slot in sorted(draw(st.sets(st.integers(0, 60), min_size=1, max_size=24))):
        endpoint = policies.endpoint(slot, queued=draw(TOKENS), running=draw(LOADS))
        endpoint.peer_running, endpoint.waiting, endpoint.peer_waiting = draw(LOADS), draw(LOADS), draw(LOADS)
        endpoint.kv_tokens, endpoint.peer_queued_tokens = draw(TOKENS), draw(TOKENS)
        endpoint.capacity_tokens = draw(st.sampled_from([math.inf, 1_000.0, 500_000.0]))
        endpoint.free_tokens = draw(st.sampled_from([math.inf, 0.0, 100_000.0]))
        if draw(st.booleans()):
            endpoint.placed(draw(TOKENS), draw(TOKENS), float(draw(TOKENS)))
            endpoint.evicts = draw(st.booleans())
        endpoint.prefill_since_ms = draw(st.floats(0, 1e6))
        endpoint.peer_queued_ms, endpoint.peer_busy_ms = draw(st.floats(0, 1e6)), draw(st.floats(0, 1e6))
        depths[slot] = draw(st.integers(0, hashes))
        pool.append(endpoint)
    extra = draw(st.integers(1, 100))
    session = draw(st.none() | st.integers(0, (1 << 64) - 1))
    asked = policies.request(hashes * policies.TOKENS_PER_BLOCK + extra, session, hashes)
    return policies.observed(pool, depths), asked


def facts(endpoint: types.Endpoint) -> list[object]:
    """All that an endpoint says, but for what it keeps of its own identity."""
    values = [getattr(endpoint, name) for name in dir(endpoint) if name[0] != "_" and name != "rings"]
    return [value for value in values if not callable(value)]


@pytest.mark.parametrize("profile", profiles.PROFILES, ids=lambda profile: profile.name)
@given(case=pools(), state=st.integers(0, (1 << 64) - 1))
def test_every_profile_is_a_pure_function_of_what_it_sees(
    profile: profiles.Profile, case: tuple[types.Observed, types.Request], state: int
) -> None:
    """One of the endpoints, with its match, scored with finite rows; again the same, and nothing is changed."""
    seen, asked = case
    before = [facts(endpoint) for endpoint in seen.endpoints]
    decision = profile.decide(asked, seen, state)
    assert any(decision.endpoint is endpoint for endpoint in seen.endpoints)
    assert any(decision.endpoint is endpoint for endpoint in decision.candidates)
    assert seen.bits & sum(endpoint.bit for endpoint in decision.candidates) == sum(
        endpoint.bit for endpoint in decision.candidates
    )
    depth = next(depth for depth, bits in seen.levels if bits & decision.endpoint.bit)
    assert decision.matched_tokens == seen.tokens_at(depth)
    assert [len(row) for row in decision.scores] == [len(decision.candidates)] * len(decision.components)
    assert all(math.isfinite(score) for row in decision.scores for score in row)
    assert decision.reason
    assert policies.facts(profile.decide(asked, seen, state)) == policies.facts(decision)
    assert [facts(endpoint) for endpoint in seen.endpoints] == before
    assert decision.state >= 0

"""Who may go to an endpoint, and who goes first."""

from __future__ import annotations

import pytest

from penstock.api.types import EngineSpeed
from router.policy import admission, types
from tests.support import policies


def endpoint(capacity: float, running: int = 0, held_tokens: int = 0) -> types.Endpoint:
    """An endpoint with requests of this gateway in flight."""
    made = types.Endpoint("w", 0, EngineSpeed(base_ms=10.0, ms_per_token=0.02))
    made.capacity_tokens = capacity
    made.running, made.held_tokens = running, held_tokens
    return made


@pytest.mark.parametrize(
    ("capacity", "running", "held", "share", "room"),
    [
        (1_000, 2, 800, 1.0, True),
        # 801 + 100 that are generated + 100 are more than 1,000.
        (1_000, 2, 801, 1.0, False),
        (1_000, 2, 800, 0.9, False),
        (1_000, 2, 801, 1.1, True),
        # Who has nothing in flight takes anything: else a long prompt would wait for ever.
        (50, 0, 0, 1.0, True),
        (float("inf"), 9, 10**9, 1.0, True),
    ],
)
def test_room(capacity: float, running: int, held: int, share: float, room: bool) -> None:
    """A request fits while what is in flight, what that has generated and its own new tokens are within the share."""
    made = endpoint(capacity, running, held)
    if running:
        made.token_ms = 20.0
        made.begin_decode(1_000.0)
        made.begin_decode(3_000.0)
    seen = policies.observed([made])
    seen.now_ms, seen.kv_share = 3_000.0, share
    assert admission.has_room(seen, seen.endpoints[0], 100) is room


def test_what_peers_hold_counts() -> None:
    """The room that another gateway's requests take is taken."""
    full = endpoint(1_000)
    full.peer_running, full.peer_fresh_tokens, full.peer_generated_tokens = 1, 900, 50
    seen = policies.observed([full])
    seen.kv_share = 1.0
    assert admission.has_room(seen, full, 50)
    assert not admission.has_room(seen, full, 51)


def test_what_is_generated_is_told_by_time() -> None:
    """Each request here generates from its first token on, at the pace of those that have ended."""
    made = endpoint(1_000)
    assert made.generated_tokens(5_000.0) == 0.0
    made.token_ms = 10.0
    made.begin_decode(1_000.0)
    made.begin_decode(4_000.0)
    assert made.generated_tokens(5_000.0) == 500.0
    made.end_decode(1_000.0)
    assert made.generated_tokens(5_000.0) == 100.0
    assert made.generated_tokens(3_000.0) == 0.0
    made.learn_token_ms(30.0)
    assert made.token_ms == pytest.approx(11.0)
    # All at once says nothing, and no stream counts as more than four times slower.
    made.learn_token_ms(0.0)
    assert made.token_ms == pytest.approx(11.0)
    made.learn_token_ms(9_000.0)
    assert made.token_ms == pytest.approx(11.0 + 0.05 * 33.0)
    made.token_ms = 10.0
    made.end_decode(4_000.0)
    assert made.generated_tokens(9_000.0) == 0.0


def test_short_prefills_go_first_and_whoever_waits_long_before_anybody() -> None:
    """Of two that came together the shorter is first; ten times the wait makes up for ten times the prefill."""
    assert admission.response_ratio(100, 20) > admission.response_ratio(100, 200)
    assert admission.response_ratio(1_000, 200) == admission.response_ratio(100, 20)
    assert admission.response_ratio(0, 0) == 1.0

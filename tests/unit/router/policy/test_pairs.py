"""Which endpoint computes a prompt and which generates its answer."""

from __future__ import annotations

import pytest

from penstock.api.types import EngineSpeed
from router.policy import pairs, profiles, types
from tests.support import policies

# 0.1 ms per token; its KV takes 0.01 ms per token over a link.
SPEED = EngineSpeed(
    base_ms=10.0, ms_per_token=0.1, ms_per_seq=0.5, ms_per_kv_token=1e-4, step_base_ms=5.0, kv_ms_per_token=0.01
)
PROMPT = policies.request(1_600, blocks=100)
KV_MS = 0.01
DEFAULT = profiles.by_name("default")


def fleet(count: int, first_slot: int = 0) -> list[types.Endpoint]:
    """Idle endpoints of one role."""
    return [policies.endpoint(first_slot + at, speed=SPEED) for at in range(count)]


def scores(decision: types.Decision) -> dict[str, list[float]]:
    """By component."""
    return {name: list(row) for name, row in zip(decision.components, decision.scores, strict=True)}


def test_a_prompt_goes_where_its_first_token_is_predicted_first() -> None:
    """80 blocks cached save 128 ms and are worth 100 ms of queue, not 200; streams count for nothing where none are."""
    near, idle = fleet(2)
    near.queued_ms, near.waiting, near.running = 100.0, 1, 40
    found = pairs.prefill(PROMPT, policies.observed([near, idle], {0: 80}), 0)
    assert found.endpoint is near
    assert scores(found)["wait_ms"] == [100.0, 0.0]
    assert scores(found)["prefill_ms"] == [pytest.approx(10 + 32), pytest.approx(10 + 160)]
    near.queued_ms = 200.0
    assert pairs.prefill(PROMPT, policies.observed([near, idle], {0: 80}), 0).endpoint is idle


def test_an_answer_goes_where_its_kv_is_soonest() -> None:
    """What is cached there need not be sent, and those that wait for theirs share the link."""
    near, idle = fleet(2)
    found = pairs.decode(PROMPT, policies.observed([near, idle], {0: 80}), KV_MS, 0)
    assert found.endpoint is near
    assert scores(found)["arrive_ms"] == [pytest.approx(3.2), pytest.approx(16.0)]
    near.waiting, near.peer_waiting = 3, 2
    found = pairs.decode(PROMPT, policies.observed([near, idle], {0: 80}), KV_MS, 0)
    assert found.endpoint is idle
    assert scores(found)["arrive_ms"] == [pytest.approx(6 * 3.2), pytest.approx(16.0)]


def test_the_slower_link_decides_how_long_kv_takes() -> None:
    """Of the sender's and the receiver's."""
    (only,) = fleet(1)
    observed = policies.observed([only])
    found = pairs.decode(PROMPT, observed, 0.05, 0)
    assert scores(found)["arrive_ms"] == [pytest.approx(80.0)]
    assert pairs.transfer_ms(PROMPT, 0.05, found) == pytest.approx(80.0)
    assert pairs.transfer_ms(PROMPT, 0.001, found) == pytest.approx(16.0)


def test_an_answer_avoids_crowds_and_full_memory() -> None:
    """A running sequence costs all who are there time between tokens; where memory is short it has to wait."""
    crowded, idle = fleet(2)
    crowded.running, crowded.kv_tokens = 10, 20_000
    found = pairs.decode(PROMPT, policies.observed([crowded, idle]), KV_MS, 0)
    assert found.endpoint is idle
    # 10 x ((10 x 0.5 + 2.0) of its own steps + 10 x (0.5 + 0.16) of the others').
    assert scores(found)["stream_ms"] == [pytest.approx(10 * (7.0 + 6.6)), 0.0]
    full, empty = fleet(2)
    full.running, full.kv_tokens, full.held_tokens, full.capacity_tokens = 1, 9_000, 9_000, 10_000.0
    found = pairs.decode(PROMPT, policies.observed([full, empty]), KV_MS, 0)
    assert found.endpoint is empty
    assert scores(found)["memory_ms"][0] > 0.0


def test_kv_that_is_pushed_out_is_sent_again() -> None:
    """A full cache costs four transfers of what comes; one with room costs nothing."""
    full, room = fleet(2)
    full.evicts, full.free_tokens, room.free_tokens = True, 0.0, 5_000.0
    found = pairs.decode(PROMPT, policies.observed([full, room]), KV_MS, 0)
    assert scores(found)["evict_ms"] == [pytest.approx(4 * 16.0), 0.0]
    assert found.endpoint is room


def test_a_pair_is_an_endpoint_of_each_pool() -> None:
    """The answer's choice knows over which link the KV comes, and the transfer is that of the two that were chosen."""
    slow = SPEED.model_copy(update={"kv_ms_per_token": 0.02})
    prompts, answers = [policies.endpoint(slot, speed=slow) for slot in range(2)], fleet(3, 2)
    answers[0].waiting = answers[1].waiting = 1
    pair = DEFAULT.decide_pair(PROMPT, policies.observed(prompts), policies.observed(answers, {4: 50}), (0, 0))
    assert pair.prefill.endpoint in prompts
    assert pair.decode.endpoint is answers[2]
    assert scores(pair.decode)["arrive_ms"] == [pytest.approx(64.0), pytest.approx(64.0), pytest.approx(16.0)]
    assert pair.transfer_ms == pytest.approx(16.0)


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_decides_pairs(name: str) -> None:
    """One without rules of its own for pairs decides for each pool as it does for workers that do both."""
    profile = profiles.by_name(name)
    prompts, answers = fleet(3), fleet(3, 3)
    pair = profile.decide_pair(PROMPT, policies.observed(prompts), policies.observed(answers), (1, 2))
    assert pair.prefill.endpoint in prompts
    assert pair.decode.endpoint in answers
    if profile.decode is None:
        alone = profile.decide(PROMPT, policies.observed(answers), 2)
        assert policies.facts(alone) == policies.facts(pair.decode)


def test_unknown_links_decide_nothing() -> None:
    """Where no endpoint tells its link, transfers take no time for all alike."""
    one, other = (policies.endpoint(slot) for slot in range(2))
    one.running = 1
    found = pairs.decode(PROMPT, policies.observed([one, other]), 0.0, 0)
    assert scores(found)["arrive_ms"] == [0.0, 0.0]

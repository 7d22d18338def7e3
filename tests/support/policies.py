"""Endpoints and what a policy observes, for tests of routing decisions."""

from __future__ import annotations

from penstock.api.types import EngineSpeed
from router.policy import types

SPEED = EngineSpeed(base_ms=10.0, ms_per_token=0.1)
TOKENS_PER_BLOCK = 16


def endpoint(
    slot: int, *, speed: EngineSpeed = SPEED, queued: int = 0, running: int = 0, name: str = ""
) -> types.Endpoint:
    """An endpoint with a load."""
    made = types.Endpoint(name or f"w-{slot}", slot, speed)
    made.queued_tokens = queued
    made.queued_ms = queued * speed.ms_per_token
    made.running = running
    return made


def request(prompt_tokens: int = 1_000, session: int | None = None, blocks: int = 0) -> types.Request:
    """A request of that many tokens, with the hashes of that many full blocks."""
    return types.Request(prompt_tokens, list(range(1, blocks + 1)), session, None)


def observed(endpoints: list[types.Endpoint], blocks: dict[int, int] | None = None) -> types.Observed:
    """What a policy sees where endpoint `slot` has the first `blocks[slot]` blocks of the prompt."""
    blocks = blocks or {}
    by_depth: dict[int, int] = {}
    for each in endpoints:
        depth = blocks.get(each.slot, 0)
        by_depth[depth] = by_depth.get(depth, 0) | each.bit
    by_slot: list[types.Endpoint | None] = [None] * (max(each.slot for each in endpoints) + 1)
    for each in endpoints:
        by_slot[each.slot] = each

    def shortlist(bits: int, count: int) -> list[types.Endpoint]:
        return sorted((each for each in endpoints if each.bit & bits), key=lambda each: each.requests())[:count]

    bits = sum(each.bit for each in endpoints)
    return types.Observed(
        endpoints, bits, by_slot, sorted(by_depth.items()), lambda count: count * TOKENS_PER_BLOCK, shortlist
    )


def facts(decision: types.Decision) -> tuple[object, ...]:
    """All that a decision says."""
    return (
        decision.endpoint,
        decision.matched_tokens,
        decision.candidates,
        decision.components,
        decision.scores,
        decision.reason,
        decision.state,
    )

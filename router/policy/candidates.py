"""Filters: which endpoints are worth scoring.

In a small pool all are. In a large one the choice is between the endpoints with the longest matches and the least loaded of
the rest, so the cost of a decision does not grow with the pool.
"""

from __future__ import annotations

from router.policy import types

SCORE_ALL_UP_TO = 16
PER_LEVEL = 4
LEVELS = 3


def everyone(request: types.Request, observed: types.Observed) -> list[types.Endpoint]:
    """All endpoints, whatever their number."""
    return list(observed.endpoints)


def promising(request: types.Request, observed: types.Observed) -> list[types.Endpoint]:
    """All of a small pool; of a large one the least loaded of each of the longest matches and of all."""
    if len(observed.endpoints) <= SCORE_ALL_UP_TO:
        return list(observed.endpoints)
    chosen: list[types.Endpoint] = []
    for _, bits in observed.levels[: -LEVELS - 1 : -1]:
        chosen += observed.shortlist(bits, PER_LEVEL)
    seen = 0
    for endpoint in chosen:
        seen |= endpoint.bit
    chosen += observed.shortlist(observed.bits & ~seen, PER_LEVEL)
    return chosen


def matched_tokens(observed: types.Observed, candidates: list[types.Endpoint]) -> list[int]:
    """Tokens of the prompt that each candidate should have cached."""
    levels = observed.levels
    if len(levels) == 1:
        return [observed.tokens_at(levels[0][0])] * len(candidates)
    matched = [0] * len(candidates)
    for depth, bits in levels:
        if depth:
            tokens = observed.tokens_at(depth)
            for position, endpoint in enumerate(candidates):
                if bits & endpoint.bit:
                    matched[position] = tokens
    return matched

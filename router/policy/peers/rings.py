"""Consistent hash rings, without a ring to build: each endpoint knows its own places.

The next place clockwise of a key belongs to the endpoint whose own next place is nearest, so a decision costs one search
among an endpoint's places for each endpoint, and endpoints may come and go.
"""

from __future__ import annotations

import bisect

from router.policy import pickers, types

_MASK = (1 << 64) - 1


def places(endpoint: types.Endpoint, replicas: int) -> list[int]:
    """The endpoint's places on a ring of 2^64, in order. The same in every gateway, and for every pool."""
    known = endpoint.rings.get(replicas)
    if known is not None:
        return known
    seed = endpoint.identity
    made: list[int] = []
    for _ in range(replicas):
        seed = pickers.mix(seed)
        made.append(pickers.draw(seed))
    made.sort()
    endpoint.rings[replicas] = made
    return made


def distance(endpoint: types.Endpoint, key: int, replicas: int) -> int:
    """From `key` clockwise to the endpoint's next place."""
    own = places(endpoint, replicas)
    at = bisect.bisect_left(own, key)
    return (own[at if at < len(own) else 0] - key) & _MASK

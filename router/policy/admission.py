"""Which requests wait at the gateway: those whose endpoint has no room in its KV cache, and who goes first when it has.

An engine takes what it is sent. More sequences than its KV cache holds push the cached prefixes out, so more has to be
prefilled, steps get longer, and still more sequences run at once. A request that is held here costs nothing until there is
room, is decided anew then, and lets those go first that are soon done.
"""

from __future__ import annotations

from router.policy import types


def used_tokens(observed: types.Observed, endpoint: types.Endpoint) -> float:
    """KV tokens that the requests in flight hold: their prompts, and what they have generated as far as time tells.

    Of another gateway's only what was computed for them: which cached prefixes they share with others is not known here.
    """
    generated = endpoint.generated_tokens(observed.now_ms) + endpoint.peer_generated_tokens
    return endpoint.held_tokens + endpoint.peer_fresh_tokens + generated


def has_room(observed: types.Observed, endpoint: types.Endpoint, added_tokens: int) -> bool:
    """Whether so many tokens more fit into the share of the endpoint's KV cache that requests in flight may fill.

    An endpoint with nothing in flight takes anything, and so does one whose capacity is not known.
    """
    if endpoint.running + endpoint.peer_running == 0:
        return True
    return used_tokens(observed, endpoint) + added_tokens <= observed.kv_share * endpoint.capacity_tokens


def response_ratio(waited_ms: float, prefill_ms: float) -> float:
    """Who goes first: the highest ratio of waiting and service to service (Brinch Hansen, 1971).

    Short prefills, which cached prefixes make, go before long ones, and whoever waits long enough goes before anybody.
    """
    return 1.0 + waited_ms / max(1.0, prefill_ms)

"""SGLang's router (sglang-router 0.3.2, policies/cache_aware.rs: its default policy)."""

from __future__ import annotations

from router.policy import candidates as filters
from router.policy import pickers, scorers, types

CACHE_THRESHOLD = 0.3
BALANCE_ABS_THRESHOLD = 64.0
BALANCE_REL_THRESHOLD = 1.5


def sglang(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """cache_aware: the longest match over 0.3 of the prompt, else the fewest requests; the fewest where load is uneven.

    Uneven: max - min > 64 requests, and max > 1.5 x min. Where several have the longest match, which of them is taken is
    not defined there and goes in turn here. Of equally loaded endpoints the first is taken, as there. (Until December 2025 a
    miss went to the smallest tree; 0.3.2 sends it to the fewest requests.) Its tree of up to 2^26 characters per worker is
    the prefix index here, which holds what the engine can hold.
    """
    candidates = list(observed.endpoints)
    matched = filters.matched_tokens(observed, candidates)
    misses = [float(request.prompt_tokens - tokens) for tokens in matched]
    loads = scorers.requests(candidates)
    least = min(loads)
    most = max(loads)
    longest = max(matched)
    if most - least > BALANCE_ABS_THRESHOLD and most > BALANCE_REL_THRESHOLD * least:
        best, reason = loads.index(least), "load is uneven: fewest requests"
    elif longest > CACHE_THRESHOLD * request.prompt_tokens:
        best, reason = pickers.lowest(misses, state), "longest match"
    else:
        best, reason = loads.index(least), "no long match: fewest requests"
    return types.Decision(
        candidates[best],
        matched[best],
        candidates,
        ("uncached_tokens", "requests"),
        (misses, loads),
        reason,
        pickers.mix(state),
    )

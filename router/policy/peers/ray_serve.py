"""Ray Serve LLM 2.60 (ray/llm/_internal/serve/routing_policies/prefix_aware: PrefixCacheAffinityRouter)."""

from __future__ import annotations

from router.policy import candidates as filters
from router.policy import pickers, scorers, types

MATCH_RATE_THRESHOLD = 0.1


def ray(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """Prefix affinity: the longest match of at least 0.1 of the prompt, else the smallest tree; fewest requests among them.

    `imbalanced_threshold` is infinite by default, so load never overrides the match. A tree's size is what was ever
    inserted (eviction is off by default): here the uncached tokens that this gateway placed. Replicas that are at
    `max_ongoing_requests` are skipped there; the gateway knows no such limit.
    """
    candidates = list(observed.endpoints)
    matched = filters.matched_tokens(observed, candidates)
    loads = scorers.requests(candidates)
    longest = max(matched)
    if longest >= MATCH_RATE_THRESHOLD * request.prompt_tokens:
        among, reason = [at for at, tokens in enumerate(matched) if tokens == longest], "longest match, fewest requests"
    else:
        smallest = min([endpoint.placed_tokens for endpoint in candidates])
        among = [at for at, endpoint in enumerate(candidates) if endpoint.placed_tokens == smallest]
        reason = "no match: smallest tree, fewest requests"
    best = among[pickers.lowest([loads[at] for at in among], state)]
    return types.Decision(
        candidates[best],
        matched[best],
        candidates,
        ("uncached_tokens", "tree_tokens", "requests"),
        (
            [float(request.prompt_tokens - tokens) for tokens in matched],
            [float(endpoint.placed_tokens) for endpoint in candidates],
            loads,
        ),
        reason,
        pickers.mix(state),
    )

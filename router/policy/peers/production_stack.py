"""vLLM production-stack 0.1.12 (src/vllm_router/routers/routing_logic.py PrefixAwareRouter, prefix/hashtrie.py)."""

from __future__ import annotations

from router.policy import candidates as filters
from router.policy import pickers, types


def production_stack(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """prefixaware: one at random of those with the longest match, of all where there is none; load is not looked at.

    The shortest match counts (prefix_min_match_length 0): a chunk of 128 characters there, the first block of 64 bytes here.
    Its trie never forgets; the prefix index forgets what the engine cannot hold.
    """
    depth, bits = observed.levels[-1]
    holders = [endpoint for endpoint in observed.endpoints if endpoint.bit & bits]
    chosen = holders[pickers.draw(state) % len(holders)]
    matched = filters.matched_tokens(observed, [chosen])[0]
    reason = "drawn from the longest match" if depth else "no match: drawn"
    return types.Decision(chosen, matched, [chosen], (), (), reason, pickers.mix(state))

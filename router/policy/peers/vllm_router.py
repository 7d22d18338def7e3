"""vllm-project/router 0.1.17 (src/policies/consistent_hash.rs, hash_key.rs)."""

from __future__ import annotations

from router.policy import candidates as filters
from router.policy import pickers, types
from router.policy.peers import rings

VIRTUAL_NODES = 160


def vllm_router(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """consistent_hash: the next endpoint on a ring with 160 places each, by session, else by the whole request.

    The session is a header or the body's user there as here. Without one, the hash of the body there is that of the prompt's
    last full block here, which stands for all before it; a prompt without a full block (64 bytes) goes anywhere. The
    ring holds the endpoints that are ready; there, keys of one that is not go to the first that is.
    """
    if request.session is not None:
        key, reason = pickers.draw(request.session), "next on the ring for its session"
    elif request.hashes:
        key, reason = pickers.draw(request.hashes[-1]), "next on the ring for its prompt"
    else:
        key, reason = pickers.draw(state), "prompt without a full block: drawn"
    distances = [rings.distance(endpoint, key, VIRTUAL_NODES) for endpoint in observed.endpoints]
    chosen = observed.endpoints[distances.index(min(distances))]
    matched = filters.matched_tokens(observed, [chosen])[0]
    return types.Decision(chosen, matched, [chosen], (), (), reason, pickers.mix(state))

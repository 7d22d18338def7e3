"""KubeAI (October 2025; internal/loadbalancer/balance_chwbl.go, strategy PrefixHash)."""

from __future__ import annotations

from router.policy import candidates as filters
from router.policy import pickers, scorers, types
from router.policy.peers import rings

REPLICATION = 256
MEAN_LOAD_FACTOR = 1.25
# prefixCharLength is 100; the nearest end of a block of text is at 128 bytes.
PREFIX_BLOCKS = 2


def kubeai(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """Consistent hashing with bounded loads: the next endpoint on the ring with at most 1.25 times the mean load.

    Bound: 1.25 x (all requests + 1) / endpoints. 256 places each. The key is the first 100 characters of the first user
    message there; here the first two blocks, 128 bytes of the prompt's text (64 where it has no more), so that requests with
    one system prompt share it. A prompt without a full block goes anywhere.
    """
    hashes = request.hashes
    key = pickers.draw(hashes[min(PREFIX_BLOCKS, len(hashes)) - 1] if hashes else state)
    candidates = list(observed.endpoints)
    loads = scorers.requests(candidates)
    bound = MEAN_LOAD_FACTOR * (sum(loads) + 1.0) / len(candidates)
    distances = [rings.distance(endpoint, key, REPLICATION) for endpoint in candidates]
    fit = [at for at, load in enumerate(loads) if load <= bound]
    best = fit[0]
    for at in fit:
        if distances[at] < distances[best]:
            best = at
    home = distances[best] == min(distances)
    matched = filters.matched_tokens(observed, [candidates[best]])[0]
    return types.Decision(
        candidates[best],
        matched,
        candidates,
        ("ring_distance", "requests"),
        ([distance / 2.0**64 for distance in distances], loads),
        "next on the ring" if home else "next on the ring is over the bound: the one after",
        pickers.mix(state),
    )

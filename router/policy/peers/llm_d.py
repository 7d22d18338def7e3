"""llm-d-router v0.10.0 (August 2026, formerly the Gateway API Inference Extension's endpoint picker)."""

from __future__ import annotations

from router.policy import candidates as filters
from router.policy import pickers, types

# config/charts/routerlib, profile `default`.
QUEUE_WEIGHT = 2.0
KV_WEIGHT = 2.0
PREFIX_WEIGHT = 3.0

# pkg/epp/framework/plugins/scheduling/filter/prefixcacheaffinity and scorer/tokenload.
AFFINITY_THRESHOLD = 0.80
MAX_TTFT_PENALTY_MS = 18_000.0
# Calibrated there for Qwen3-32B on two H100.
PEAK_PREFILL_TOKENS_PER_S = 15_928.0
TOKEN_LOAD_FULL = 4_194_304.0


def _prefix_scores(request: types.Request, observed: types.Observed, matched: list[int]) -> list[float]:
    """Matched blocks over all full blocks of the prompt, from 0 to 1."""
    total = observed.tokens_at(len(request.hashes))
    return [min(1.0, tokens / total) for tokens in matched] if total > 0 else [0.0] * len(matched)


def llm_d(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """Highest weighted score of queue (2), KV utilisation (2) and prefix (3); equals at random (max-score-picker).

    queue = (max - q) / (max - min) over the pool, 1 where all are equal; KV = 1 - usage; prefix = matched / all blocks.
    The scores are given as what is missing to the full score. `q` and usage are read from engines' metrics there; here q is
    the requests of all gateways that wait for their prefill, those being prefilled included, and usage the prompts in flight
    over the KV capacity, 0 while that is unknown.
    """
    candidates = list(observed.endpoints)
    matched = filters.matched_tokens(observed, candidates)
    queues = [endpoint.waiting + endpoint.peer_waiting for endpoint in candidates]
    shortest = min(queues)
    span = max(queues) - shortest
    queue = [QUEUE_WEIGHT * (waiting - shortest) / span if span else 0.0 for waiting in queues]
    usage = [
        KV_WEIGHT * min(1.0, (endpoint.kv_tokens + endpoint.peer_kv_tokens) / endpoint.capacity_tokens)
        for endpoint in candidates
    ]
    prefix = [PREFIX_WEIGHT * (1.0 - score) for score in _prefix_scores(request, observed, matched)]
    best = pickers.lowest([queue[at] + usage[at] + prefix[at] for at in range(len(candidates))], state)
    return types.Decision(
        candidates[best],
        matched[best],
        candidates,
        ("queue", "kv_utilisation", "prefix"),
        (queue, usage, prefix),
        "highest weighted score",
        pickers.mix(state),
    )


def llm_d_sticky(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """Sticky until saturated: fewest tokens in flight among those that have 80 % of the prompt, if that is not too slow.

    Filter `prefix-cache-affinity-filter`: endpoints with a prefix score of at least 0.80 are kept, unless the lowest
    predicted TTFT among them exceeds the lowest of the others by more than 18,000 ms; TTFT = tokens in flight over 15,928
    tokens per second. Then `token-load-scorer`: tokens in flight and this prompt's uncached ones, of 4,194,304 at most.
    Tokens in flight are the uncached ones until the first byte, as there; for answers in one piece until the predicted end
    of the prefill, where llm-d waits for the end of the answer.
    """
    candidates = list(observed.endpoints)
    matched = filters.matched_tokens(observed, candidates)
    scores = _prefix_scores(request, observed, matched)
    in_flight = [endpoint.queued_tokens + endpoint.peer_queued_tokens for endpoint in candidates]
    loads = [
        min(TOKEN_LOAD_FULL, float(in_flight[at] + max(0, request.prompt_tokens - matched[at])))
        for at in range(len(candidates))
    ]
    sticky = [at for at, score in enumerate(scores) if score >= AFFINITY_THRESHOLD]
    among, reason = list(range(len(candidates))), "none has the prefix: fewest tokens in flight"
    if sticky:
        others = [in_flight[at] for at, score in enumerate(scores) if score < AFFINITY_THRESHOLD]
        ahead = min([in_flight[at] for at in sticky]) - min(others) if others else 0
        if ahead / PEAK_PREFILL_TOKENS_PER_S * 1_000.0 > MAX_TTFT_PENALTY_MS:
            reason = "those with the prefix are saturated: fewest tokens in flight"
        else:
            among, reason = sticky, "has the prefix, fewest tokens in flight"
    best = among[pickers.lowest([loads[at] for at in among], state)]
    return types.Decision(
        candidates[best],
        matched[best],
        candidates,
        ("token_load", "unmatched_share"),
        (loads, [1.0 - score for score in scores]),
        reason,
        pickers.mix(state),
    )

"""AIBrix v0.7 (pkg/plugins/gateway/algorithms: prefix_cache.go, prefix_cache_preble.go)."""

from __future__ import annotations

from router.policy import candidates as filters
from router.policy import pickers, scorers, types

# As its manifests and chart set them; the code's own defaults are 8 and 1.
IMBALANCE_REQUESTS = 16.0
DEVIATIONS = 2.0

# prefix_cache_preble.go.
PREFIX_SHARE = 0.5
DECODE_TOKENS = 45
DECODE_S_PER_TOKEN = 0.15
PREFILL_EFFICIENCY = 0.9


def _least_loaded(loads: list[float]) -> tuple[list[int], bool]:
    """All positions, or those of the fewest requests where max - min is over the imbalance; and whether it is."""
    least = min(loads)
    if max(loads) - least > IMBALANCE_REQUESTS:
        return [at for at, load in enumerate(loads) if load == least], True
    return list(range(len(loads))), False


def _bound(loads: list[float]) -> float:
    """Mean and two standard deviations (of a sample) of the requests in flight."""
    mean = sum(loads) / len(loads)
    if len(loads) == 1:
        return mean
    squares = [(load - mean) * (load - mean) for load in loads]
    return float(mean + DEVIATIONS * (sum(squares) / (len(loads) - 1)) ** 0.5)


def aibrix(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """prefix-cache: the best match in whole per cent, fewest requests among equals, with requests <= mean + 2 deviations.

    Where max - min > 16 requests only the least loaded are looked at. Where nobody matches, or no match is within the bound:
    the fewest requests of all; equals at random. Its table of 200,000 blocks of 128 bytes forgets after 20 minutes; the
    prefix index forgets what the engine cannot hold.
    """
    candidates = list(observed.endpoints)
    matched = filters.matched_tokens(observed, candidates)
    loads = scorers.requests(candidates)
    among, uneven = _least_loaded(loads)
    bound = _bound(loads)
    total = max(1, observed.tokens_at(len(request.hashes)), max(matched))
    percent = [tokens * 100 // total for tokens in matched]
    fit = [at for at in among if matched[at] > 0 and loads[at] <= bound]
    if fit:
        most = max([percent[at] for at in fit])
        fit = [at for at in fit if percent[at] == most]
        reason = "load is uneven: best match of the least loaded" if uneven else "best match within the load bound"
    else:
        fit = list(range(len(candidates)))
        reason = "no match within the load bound: fewest requests"
    best = fit[pickers.lowest([loads[at] for at in fit], state)]
    return types.Decision(
        candidates[best],
        matched[best],
        candidates,
        ("unmatched_percent", "requests"),
        ([float(100 - share) for share in percent], loads),
        reason,
        pickers.mix(state),
    )


def preble_prefill_s(uncached_tokens: float, prompt_tokens: float) -> float:
    """Prefill time of Mistral 7B on a V100, s: its fixed cost model, of linear layers, attention and its quadratic part."""
    if uncached_tokens >= 384:
        linear_ms = 0.27106428 * uncached_tokens + 10.52444263
    elif uncached_tokens >= 192:
        linear_ms = -295.0 + 3.125 * uncached_tokens - 6.4e-3 * uncached_tokens * uncached_tokens
    else:
        linear_ms = 55.0
    if prompt_tokens <= 1_024:
        attention_ms = 0.80
    else:
        attention_ms = 4.65e-4 * prompt_tokens + 0.398
        if uncached_tokens <= 1_024:
            attention_ms /= 2.0
    quadratic_ms = 0.0
    if uncached_tokens >= 4_096:
        quadratic_ms = -18.425 + 9.65e-3 * uncached_tokens + 5.4e-6 * uncached_tokens * uncached_tokens
    return (linear_ms + attention_ms + quadratic_ms) / 1_000.0


def preble_cost_s(endpoint: types.Endpoint) -> float:
    """Cost of what was placed in the last three minutes, s: per request, prefill / 0.9 x its miss rate, and 45 x 0.15."""
    count = endpoint.recent_requests
    if count <= 0.0:
        return 0.0
    uncached = endpoint.recent_uncached_tokens / count
    prompt = endpoint.recent_prompt_tokens / count
    prefill = preble_prefill_s(uncached, prompt) / PREFILL_EFFICIENCY * (uncached / prompt if prompt > 0.0 else 1.0)
    return count * (prefill + DECODE_TOKENS * DECODE_S_PER_TOKEN)


def aibrix_preble(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """prefix-cache-preble: over half matched, the longest match with the fewest recent requests; else the lowest cost.

    Half of the prompt must be matched by somebody, ready to take it or not; where max - min > 16 requests in flight only
    the least loaded are taken. Recent is a window of three minutes there and a weight that falls by 1/e in three minutes here;
    the window's cost, which is a sum over its requests there, is taken at their mean length here. Its tree forgets after
    five minutes without use.
    """
    candidates = list(observed.endpoints)
    matched = filters.matched_tokens(observed, candidates)
    among, uneven = _least_loaded(scorers.requests(candidates))
    costs = [preble_cost_s(endpoint) for endpoint in candidates]
    recent = [endpoint.recent_requests for endpoint in candidates]
    if max(matched) > PREFIX_SHARE * request.prompt_tokens:
        longest = max([matched[at] for at in among])
        among = [at for at in among if matched[at] == longest]
        best = among[pickers.lowest([recent[at] for at in among], state)]
        reason = "longest match, fewest recent requests"
    else:
        best = among[pickers.lowest([costs[at] for at in among], state)]
        reason = "short match: lowest recent cost"
    return types.Decision(
        candidates[best],
        matched[best],
        candidates,
        ("uncached_tokens", "recent_requests", "recent_cost_s"),
        ([float(request.prompt_tokens - tokens) for tokens in matched], recent, costs),
        f"{reason}, of the least loaded" if uneven else reason,
        pickers.mix(state),
    )

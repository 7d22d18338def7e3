"""The default where one endpoint computes the prompt and another generates the answer: which of each.

Both are chosen when the request comes. The prompt goes where its first token costs least, by the parts of `default` that there
are without streams: nobody decodes at such an endpoint, so nobody is slowed. The answer goes where it costs least from then on:
the part of the prompt that is not cached there, over the slower link, shared with those that wait for theirs, memory,
slower streams, and the KV that is pushed out.

One unit, as in `router.policy.scorers`: predicted milliseconds. The second choice does not change the first.
"""

from __future__ import annotations

from router.policy import candidates as filters
from router.policy import pickers, scorers, types


def prefill(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """Where a prompt is computed: the lowest wait + prefill + how much longer others wait + what is computed again, ms.

    `observed.output_tokens` is 1 there: a prompt's KV leaves once it is computed.
    """
    candidates = filters.promising(request, observed)
    matched = filters.matched_tokens(observed, candidates)
    waits = scorers.wait_ms(request, observed, candidates)
    prefills = own_prefill_ms(request, candidates, matched)
    delays = scorers.delay_ms(request, observed, candidates, matched)
    evicts = scorers.evict_ms(request, candidates, matched)
    totals = [waits[at] + prefills[at] + delays[at] + evicts[at] for at in range(len(candidates))]
    best = pickers.nearly_lowest(totals, matched, scorers.SAME_WITHIN, state)
    return types.Decision(
        candidates[best],
        matched[best],
        candidates,
        ("wait_ms", "prefill_ms", "delay_ms", "evict_ms"),
        (waits, prefills, delays, evicts),
        "lowest predicted cost of the prompt",
        pickers.mix(state),
    )


def own_prefill_ms(request: types.Request, candidates: list[types.Endpoint], matched: list[int]) -> list[float]:
    """Time to compute this prompt's uncached tokens where nothing decodes, ms."""
    prompt = request.prompt_tokens
    scores: list[float] = []
    for at, endpoint in enumerate(candidates):
        cached = matched[at]
        scores.append(endpoint.base_ms + endpoint.prefill_ms(max(1, prompt - cached), cached))
    return scores


def transfer_ms(request: types.Request, kv_ms_per_token: float, chosen: types.Decision) -> float:
    """Time that the KV takes which is not cached where the answer is generated, alone on the slower of the two links, ms."""
    return _missing(request, chosen.matched_tokens) * max(kv_ms_per_token, chosen.endpoint.kv_ms_per_token)


def _missing(request: types.Request, matched: int) -> int:
    return max(0, request.prompt_tokens - matched)


def decode(request: types.Request, observed: types.Observed, kv_ms_per_token: float, state: int) -> types.Decision:
    """Where an answer is generated: the lowest wait for its KV and for memory + what slower streams are worth + what its KV
    pushes out and has to be sent again, ms. `kv_ms_per_token` is the time of a token's KV over the link that it comes from.

    A link is shared by all whose KV is still to come (`waiting`), so that a link that is slower than it says is seen by them.
    """
    candidates = filters.promising(request, observed)
    matched = filters.matched_tokens(observed, candidates)
    arrivals: list[float] = []
    memory: list[float] = []
    streams: list[float] = []
    evicts: list[float] = []
    for at, endpoint in enumerate(candidates):
        missing = _missing(request, matched[at])
        kv_ms = max(kv_ms_per_token, endpoint.kv_ms_per_token)
        arrivals.append(missing * kv_ms * (1 + endpoint.waiting + endpoint.peer_waiting))
        memory.append(scorers.memory_ms(request, observed, endpoint))
        streams.append(scorers.TTFT_MS_PER_ITL_MS * _slower_ms(endpoint, request.prompt_tokens))
        pushed = float(missing) if endpoint.evicts else missing - endpoint.free_tokens
        evicts.append(pushed * kv_ms * scorers.REUSES if pushed > 0.0 else 0.0)
    totals = [arrivals[at] + memory[at] + streams[at] + evicts[at] for at in range(len(candidates))]
    best = pickers.nearly_lowest(totals, matched, scorers.SAME_WITHIN, state)
    return types.Decision(
        candidates[best],
        matched[best],
        candidates,
        ("arrive_ms", "memory_ms", "stream_ms", "evict_ms"),
        (arrivals, memory, streams, evicts),
        "lowest predicted cost of the answer",
        pickers.mix(state),
    )


def _slower_ms(endpoint: types.Endpoint, prompt: int) -> float:
    """By how much a token takes longer for what runs there, and how much longer those wait together for theirs, ms."""
    running = endpoint.running + endpoint.peer_running
    own = running * endpoint.ms_per_seq + (endpoint.kv_tokens + endpoint.peer_kv_tokens) * endpoint.ms_per_kv_token
    return own + running * (endpoint.ms_per_seq + prompt * endpoint.ms_per_kv_token)

"""Scorers: one number per candidate, lower is better. Those of the default are predictions in milliseconds.

Together they are what a placement costs: this request's time to its first token, what a slower stream is worth to it and
to those that it slows, and the work that is done again because of what it pushes out. The formulas, their constants and what
each is worth on traces are in docs/routing.md.
"""

from __future__ import annotations

from router.policy import admission, types

# What one ms more between tokens is worth, in ms of time to first token: the ratio of their usual targets (500 ms to 50 ms).
TTFT_MS_PER_ITL_MS = 10.0
# A block that is evicted is computed again about this many times; a conversation has a few turns.
REUSES = 4.0
# Prefills of others come in lumps, which are felt in a stream's slowest gaps: they count this often.
LUMPS = 2.0
# A stream that stands still for longer is noticed (Nielsen, Usability Engineering, 1993): the time beyond counts as lumps do.
NOTICED_MS = 100.0
# Costs that differ by less are taken for the same: a prediction is not nearer.
SAME_WITHIN = 0.05


def wait_ms(request: types.Request, observed: types.Observed, candidates: list[types.Endpoint]) -> list[float]:
    """Time until a prompt that is sent now is begun, ms: until those before it are prefilled, and there is memory for it."""
    now_ms = observed.now_ms
    scores: list[float] = []
    for endpoint in candidates:
        wait = endpoint.own_wait_ms(now_ms) + endpoint.peer_queued_ms
        scores.append(wait + memory_ms(request, observed, endpoint))
    return scores


def memory_ms(request: types.Request, observed: types.Observed, endpoint: types.Endpoint) -> float:
    """Time until enough of what runs has ended for this request's KV to fit, ms.

    What runs grows: by another mean answer each (so much is left of each at any time where the lengths have no memory). One of
    them ends every answer's length in steps over their number.
    """
    answer = observed.output_tokens
    used = admission.used_tokens(observed, endpoint)
    grown = used + answer * (endpoint.running + endpoint.peer_running)
    wanted = grown + request.prompt_tokens + answer
    lacking = wanted - observed.kv_share * endpoint.capacity_tokens
    if lacking <= 0.0 or used <= 0.0:
        return 0.0
    return lacking / grown * answer * (endpoint.step_base_ms + _decode_ms(endpoint))


def _decode_ms(endpoint: types.Endpoint) -> float:
    """What the sequences that run there add to a step, ms."""
    running = endpoint.running + endpoint.peer_running
    kv_tokens = endpoint.kv_tokens + endpoint.peer_kv_tokens
    return running * endpoint.ms_per_seq + kv_tokens * endpoint.ms_per_kv_token


def prefill_ms(request: types.Request, candidates: list[types.Endpoint], matched: list[int]) -> list[float]:
    """Time to prefill this prompt's uncached tokens, ms, the attention over its cached ones included."""
    prompt = request.prompt_tokens
    scores: list[float] = []
    for at, endpoint in enumerate(candidates):
        cached = matched[at]
        scores.append(endpoint.base_ms + _decode_ms(endpoint) + endpoint.prefill_ms(max(1, prompt - cached), cached))
    return scores


def stream_ms(request: types.Request, observed: types.Observed, candidates: list[types.Endpoint]) -> list[float]:
    """What slower streams are worth, in ms of time to first token: this one's, and those that it runs beside.

    A step there takes the longer the more sequences run and the more KV they read; where prefills take a share b of the time,
    a step of t waits t x b / (1 - b) for them; and this request adds its own share to each of the others' steps.
    """
    prompt = request.prompt_tokens
    scores: list[float] = []
    for endpoint in candidates:
        busy = (endpoint.busy_ms + endpoint.peer_busy_ms) / (types.BUSY_S * 1_000.0)
        if busy > types.MAX_BUSY:
            busy = types.MAX_BUSY
        added = _decode_ms(endpoint)
        own = added + LUMPS * (endpoint.step_base_ms + added) * busy / (1.0 - busy)
        others = (endpoint.running + endpoint.peer_running) * (endpoint.ms_per_seq + prompt * endpoint.ms_per_kv_token)
        scores.append(TTFT_MS_PER_ITL_MS * (own + others))
    return scores


def stall_ms(
    request: types.Request, observed: types.Observed, candidates: list[types.Endpoint], matched: list[int]
) -> list[float]:
    """What it is worth that running streams stand still for this prompt's prefill, in ms of time to first token.

    Each waits once for the whole prefill, which is spread over an answer's tokens. What is noticed of it counts more.
    """
    prompt = request.prompt_tokens
    each = TTFT_MS_PER_ITL_MS / max(1.0, observed.output_tokens)
    scores: list[float] = []
    for at, endpoint in enumerate(candidates):
        running = endpoint.running + endpoint.peer_running
        if not running:
            scores.append(0.0)
            continue
        cached = matched[at]
        stall = endpoint.prefill_ms(max(1, prompt - cached), cached)
        if stall > NOTICED_MS:
            stall += (LUMPS - 1.0) * (stall - NOTICED_MS)
        scores.append(each * running * stall)
    return scores


def delay_ms(
    request: types.Request, observed: types.Observed, candidates: list[types.Endpoint], matched: list[int]
) -> list[float]:
    """How much longer those wait together that come while the queue before this prompt is worked off, ms.

    Whoever comes later finds this prompt before it. Who comes while the prompt itself is prefilled does so wherever that is.
    """
    followers = observed.followers_per_ms
    if not followers:
        return [0.0] * len(candidates)
    prompt, now_ms = request.prompt_tokens, observed.now_ms
    scores: list[float] = []
    for at, endpoint in enumerate(candidates):
        queue = endpoint.wait_ms(now_ms)
        cached = matched[at]
        scores.append(followers * queue * endpoint.prefill_ms(max(1, prompt - cached), cached) if queue > 0.0 else 0.0)
    return scores


def evict_ms(request: types.Request, candidates: list[types.Endpoint], matched: list[int]) -> list[float]:
    """Time to compute again what this prompt pushes out of each cache, ms.

    What is pushed out is taken to lie as deep in its prompt as this prompt's middle. How old it is makes no difference: where
    it is younger the fleet is busier, and it would not have been wanted later.
    """
    prompt = request.prompt_tokens
    scores: list[float] = []
    for at, endpoint in enumerate(candidates):
        pushed = float(max(1, prompt - matched[at]))
        if not endpoint.evicts:
            pushed -= endpoint.free_tokens
        cost = endpoint.ms_per_token + 0.5 * endpoint.ms_per_token2 * prompt
        scores.append(pushed * cost * REUSES if pushed > 0.0 else 0.0)
    return scores


def requests(candidates: list[types.Endpoint]) -> list[float]:
    """Requests in flight at each candidate."""
    return [float(endpoint.running + endpoint.peer_running) for endpoint in candidates]

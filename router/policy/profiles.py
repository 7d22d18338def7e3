"""Routing profiles by name. A wrong name is an error, never a fallback.

Each profile is a pure function `(request, observed, state) -> Decision`; the caller keeps the state, an int. Those of other
systems are in `router.policy.peers`.
"""

from __future__ import annotations

import dataclasses

from router.policy import candidates as filters
from router.policy import pairs, pickers, scorers, types
from router.policy.peers import (
    aibrix,
    dynamo,
    kubeai,
    llm_d,
    production_stack,
    ray_serve,
    sglang,
    vllm_router,
)

DEFAULT = "default"


class UnknownProfileError(ValueError):
    """The name of a profile that does not exist."""


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """A named policy. `uses_prefix` tells the router whether the prompt has to be looked up."""

    name: str
    decide: types.Policy
    uses_prefix: bool
    summary: str
    # Whether requests wait at the gateway while the chosen endpoint has no room (`router.policy.admission`).
    holds: bool = False
    # Where a prompt is computed and where its answer is generated, where these are two endpoints; unset: `decide` for each.
    prefill: types.Policy | None = None
    decode: types.DecodePolicy | None = None

    def decide_pair(
        self, request: types.Request, prompts: types.Observed, answers: types.Observed, states: tuple[int, int]
    ) -> types.Pair:
        """Which of the endpoints that compute prompts, and which of those that generate answers; each choice has its state."""
        prefill = (self.prefill or self.decide)(request, prompts, states[0])
        kv_ms_per_token = prefill.endpoint.kv_ms_per_token
        decode = self.decide_decode(request, answers, kv_ms_per_token, states[1])
        return types.Pair(prefill, decode, pairs.transfer_ms(request, kv_ms_per_token, decode))

    def decide_decode(
        self, request: types.Request, observed: types.Observed, kv_ms_per_token: float, state: int
    ) -> types.Decision:
        """Which of the endpoints that generate answers; a token's KV takes so long over the link that it comes from."""
        if self.decode is None:
            return self.decide(request, observed, state)
        return self.decode(request, observed, kv_ms_per_token, state)


def default(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """Lowest predicted cost in ms of everything that a placement does (`router.policy.scorers`).

    Costs that are nearly the same are the same, for they are predictions: of those the longest match is taken, for what is
    cached in one place only leaves room. Equals are taken in turn.

    ms = wait for what is before it + prefill of its uncached tokens + what slower streams are worth, its own and the others'
    + what it is worth that they stand still for its prefill + how much longer those wait that come after it
    + time to compute again what is evicted.
    """
    candidates = filters.promising(request, observed)
    matched = filters.matched_tokens(observed, candidates)
    waits = scorers.wait_ms(request, observed, candidates)
    prefills = scorers.prefill_ms(request, candidates, matched)
    streams = scorers.stream_ms(request, observed, candidates)
    stalls = scorers.stall_ms(request, observed, candidates, matched)
    delays = scorers.delay_ms(request, observed, candidates, matched)
    evicts = scorers.evict_ms(request, candidates, matched)
    totals = [
        waits[at] + prefills[at] + streams[at] + stalls[at] + delays[at] + evicts[at] for at in range(len(candidates))
    ]
    best = pickers.nearly_lowest(totals, matched, scorers.SAME_WITHIN, state)
    return types.Decision(
        candidates[best],
        matched[best],
        candidates,
        ("wait_ms", "prefill_ms", "stream_ms", "stall_ms", "delay_ms", "evict_ms"),
        (waits, prefills, streams, stalls, delays, evicts),
        "lowest predicted cost",
        pickers.mix(state),
    )


def _least_of(candidates: list[types.Endpoint], observed: types.Observed, state: int, reason: str) -> types.Decision:
    scores = scorers.requests(candidates)
    best = pickers.lowest(scores, state)
    matched = filters.matched_tokens(observed, [candidates[best]])[0]
    return types.Decision(candidates[best], matched, candidates, ("requests",), (scores,), reason, pickers.mix(state))


def least_request(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """The endpoint with the fewest requests in flight."""
    endpoints = observed.endpoints
    if len(endpoints) > filters.SCORE_ALL_UP_TO:
        endpoints = observed.shortlist(observed.bits, filters.PER_LEVEL)
    return _least_of(list(endpoints), observed, state, "fewest requests in flight")


def round_robin(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """Each endpoint in turn."""
    chosen = observed.endpoints[state % len(observed.endpoints)]
    return _only(chosen, observed, "its turn", state + 1)


def random(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """Any endpoint, each with the same chance."""
    chosen = observed.endpoints[pickers.draw(state) % len(observed.endpoints)]
    return _only(chosen, observed, "drawn", pickers.mix(state))


def _only(chosen: types.Endpoint, observed: types.Observed, reason: str, state: int) -> types.Decision:
    matched = filters.matched_tokens(observed, [chosen])[0]
    return types.Decision(chosen, matched, [chosen], (), (), reason, state)


def power_of_two(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """The one with fewer requests of two that are drawn (Mitzenmacher, IEEE TPDS 2001)."""
    count = len(observed.endpoints)
    bits = pickers.draw(state)
    first = bits % count
    second = (first + 1 + (bits >> 32) % (count - 1)) % count if count > 1 else first
    pair = [observed.endpoints[first]] if first == second else [observed.endpoints[first], observed.endpoints[second]]
    return _least_of(pair, observed, state, "fewer requests of two drawn")


# An endpoint may have this many requests more than the least loaded, and this factor, before its prefix is left.
IMBALANCE_REQUESTS = 16
IMBALANCE_FACTOR = 2.0


def prefix_cache(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """The longest matching prefix, fewest requests among equals; the least loaded where the best match is overloaded."""
    candidates = filters.promising(request, observed)
    matched = filters.matched_tokens(observed, candidates)
    misses = [float(request.prompt_tokens - tokens) for tokens in matched]
    loads = scorers.requests(candidates)
    least = min(loads)
    bound = max(least + IMBALANCE_REQUESTS, least * IMBALANCE_FACTOR)
    fit = [position for position, load in enumerate(loads) if load <= bound]
    longest = min(misses[position] for position in fit)
    among = [position for position in fit if misses[position] == longest]
    best = among[pickers.lowest([loads[position] for position in among], state)]
    overloaded = longest > min(misses)
    reason = "longest prefix is overloaded: next longest" if overloaded else "longest prefix, fewest requests"
    return types.Decision(
        candidates[best],
        matched[best],
        candidates,
        ("uncached_tokens", "requests"),
        (misses, loads),
        reason,
        pickers.mix(state),
    )


def session_affinity(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """Rendezvous hash of the session over the endpoints (Thaler and Ravishankar, 1998); without one, least requests."""
    if request.session is None:
        return least_request(request, observed, state)
    session = request.session
    chosen = max(observed.endpoints, key=lambda endpoint: pickers.draw(session ^ endpoint.identity))
    return _only(chosen, observed, "its session's endpoint", state)


PROFILES: tuple[Profile, ...] = (
    Profile(
        DEFAULT,
        default,
        True,
        "lowest predicted cost of a placement",
        holds=True,
        prefill=pairs.prefill,
        decode=pairs.decode,
    ),
    Profile("least-request", least_request, False, "fewest requests in flight"),
    Profile("power-of-two", power_of_two, False, "fewer requests of two drawn"),
    Profile("prefix-cache", prefix_cache, True, "longest prefix unless overloaded"),
    Profile("random", random, False, "drawn"),
    Profile("round-robin", round_robin, False, "each in turn"),
    Profile("session-affinity", session_affinity, False, "one endpoint per session"),
    Profile("aibrix", aibrix.aibrix, True, "AIBrix prefix-cache: best match within the load bound"),
    Profile(
        "aibrix-preble", aibrix.aibrix_preble, True, "AIBrix prefix-cache-preble: long match, else lowest recent cost"
    ),
    Profile("dynamo", dynamo.dynamo, True, "Dynamo's KV router: lowest cost in blocks"),
    Profile("kubeai", kubeai.kubeai, False, "KubeAI PrefixHash: consistent hashing with bounded loads"),
    Profile("llm-d", llm_d.llm_d, True, "llm-d: queue 2, KV utilisation 2, prefix 3"),
    Profile("llm-d-sticky", llm_d.llm_d_sticky, True, "llm-d: sticky until saturated"),
    Profile("production-stack", production_stack.production_stack, True, "production-stack prefixaware: longest match"),
    Profile("ray", ray_serve.ray, True, "Ray Serve prefix affinity: longest match, else smallest tree"),
    Profile("sglang", sglang.sglang, True, "SGLang cache_aware: longest match unless load is uneven"),
    Profile("vllm-router", vllm_router.vllm_router, False, "vLLM router: consistent hash of session or prompt"),
)
_BY_NAME = {profile.name: profile for profile in PROFILES}


def names() -> tuple[str, ...]:
    """The names that `by_name` takes."""
    return tuple(sorted(_BY_NAME))


def by_name(name: str) -> Profile:
    """The profile of that name. Raises UnknownProfileError, which lists what is allowed."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownProfileError(f"routing profile {name!r} does not exist; allowed: {', '.join(names())}") from None

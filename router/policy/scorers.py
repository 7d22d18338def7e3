"""Scorers: one number per candidate, lower is better. Those of the default are predictions in milliseconds."""

from __future__ import annotations

from router.policy import types


def wait_ms(candidates: list[types.Endpoint]) -> list[float]:
    """Time until the prompts queued at each candidate are prefilled, ms."""
    return [(endpoint.queued_tokens + endpoint.peer_queued_tokens) * endpoint.ms_per_token for endpoint in candidates]


def prefill_ms(request: types.Request, candidates: list[types.Endpoint], matched: list[int]) -> list[float]:
    """Time to prefill this prompt's uncached tokens, ms, the attention over its cached ones included."""
    prompt = request.prompt_tokens
    scores: list[float] = []
    for at, endpoint in enumerate(candidates):
        cached = matched[at]
        uncached = max(1, prompt - cached)
        scores.append(
            endpoint.base_ms + uncached * (endpoint.ms_per_token + endpoint.ms_per_token2 * (cached + 0.5 * uncached))
        )
    return scores


def step_ms(candidates: list[types.Endpoint]) -> list[float]:
    """What the sequences that decode at each candidate add to the step that prefills the prompt, ms."""
    return [
        (endpoint.running + endpoint.peer_running) * endpoint.ms_per_seq
        + (endpoint.kv_tokens + endpoint.peer_kv_tokens) * endpoint.ms_per_kv_token
        for endpoint in candidates
    ]


def evict_ms(request: types.Request, candidates: list[types.Endpoint], matched: list[int]) -> list[float]:
    """Time to compute again what this prompt pushes out of each candidate's cache, ms, weighted by how young that is."""
    prompt = request.prompt_tokens
    scores: list[float] = []
    for at, endpoint in enumerate(candidates):
        pushed = prompt - matched[at] - endpoint.free_tokens
        scores.append(pushed * endpoint.ms_per_token * endpoint.evict_weight if pushed > 0.0 else 0.0)
    return scores


def evict_weight(age_s: float | None) -> float:
    """Worth of a block of that age: 1 / (1 + age / 60 s). Agents and chats come back within minutes (docs/routing.md)."""
    return 1.0 if age_s is None else 1.0 / (1.0 + age_s / 60.0)


def requests(candidates: list[types.Endpoint]) -> list[float]:
    """Requests in flight at each candidate."""
    return [float(endpoint.running + endpoint.peer_running) for endpoint in candidates]

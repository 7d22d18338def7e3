"""NVIDIA Dynamo 1.6 KV router (lib/kv-router, scheduling/selector: the default worker selector)."""

from __future__ import annotations

from router.policy import candidates as filters
from router.policy import pickers, types

# The block size is the engine's there. Both parts of the cost are divided by it, so it changes no choice.
BLOCK_TOKENS = 16
PREFILL_LOAD_SCALE = 1.0
OVERLAP_SCORE_CREDIT = 1.0


def dynamo(request: types.Request, observed: types.Observed, state: int) -> types.Decision:
    """Lowest cost in blocks: prompt tokens to prefill there, this prompt's uncached ones added, and blocks that decode.

    cost = 1.0 x max(active prefill + prompt - 1.0 x overlap, 0) / block + (active blocks + this prompt's); temperature 0,
    equals at random. Active prefill is the uncached tokens in flight until the first byte. Active blocks are the prompts in
    flight (output is not tracked by default); a block that several of them share counts once there, and for each here.
    """
    candidates = list(observed.endpoints)
    matched = filters.matched_tokens(observed, candidates)
    prompt = request.prompt_tokens
    prefill: list[float] = []
    decode: list[float] = []
    for at, endpoint in enumerate(candidates):
        raw = endpoint.queued_tokens + endpoint.peer_queued_tokens + prompt
        prefill.append(PREFILL_LOAD_SCALE * max(0.0, raw - OVERLAP_SCORE_CREDIT * matched[at]) / BLOCK_TOKENS)
        decode.append((endpoint.kv_tokens + endpoint.peer_kv_tokens + prompt) / BLOCK_TOKENS)
    best = pickers.lowest([prefill[at] + decode[at] for at in range(len(candidates))], state)
    return types.Decision(
        candidates[best],
        matched[best],
        candidates,
        ("prefill_blocks", "decode_blocks"),
        (prefill, decode),
        "lowest cost in blocks",
        pickers.mix(state),
    )

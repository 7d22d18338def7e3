"""What a server tells of itself: its longest request, and the size of its KV cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import orjson

from controller.replay import fetch, target
from workers.adapters import registry, stats


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """None is unknown."""

    max_model_len: int | None
    kv_blocks: int | None
    block_size: int | None


async def ask(to: target.Target, headers: Mapping[str, str], model: str) -> Told:
    """What the server tells. Raises `TargetError` where the model is not served."""
    status, _, body = await fetch.fetch(to, "GET", "/v1/models", headers)
    try:
        cards = {str(card["id"]): card for card in orjson.loads(body)["data"]} if status == 200 else {}
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise target.TargetError(f"{to.authority}: /v1/models is not a list of models") from exc
    if model not in cards:
        raise target.TargetError(
            f"{to.authority} does not serve {model!r}; it serves: {', '.join(sorted(cards)) or 'nothing'}"
        )
    longest = cards[model].get("max_model_len")
    blocks, size = await _cache(to, headers)
    return Told(longest if isinstance(longest, int) and longest > 0 else None, blocks, size)


async def _cache(to: target.Target, headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """KV blocks and tokens per block, where the server has metrics of a known kind."""
    try:
        status, _, body = await fetch.fetch(to, "GET", "/metrics", headers)
        found = registry.parser_for("vllm")(body.decode("utf-8", "replace")) if status == 200 else None
    except (target.TargetError, stats.BadMetrics):
        return None, None
    return (None, None) if found is None else (found.kv_blocks, found.block_size)

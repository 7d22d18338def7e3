"""Adapters by engine name."""

from workers.adapters import sglang, stats, vllm


def parsers() -> dict[str, stats.Parse]:
    """Metric parsers by engine name."""
    return {"vllm": vllm.parse_vllm, "sglang": sglang.parse_sglang, "sim": vllm.parse_vllm}


def parser_for(engine: str) -> stats.Parse:
    """The metric parser of that engine. Raises stats.UnknownEngine, whose message lists the allowed names."""
    allowed = parsers()
    if engine not in allowed:
        raise stats.UnknownEngine(f"unknown engine {engine!r}; allowed: {', '.join(sorted(allowed))}")
    return allowed[engine]

"""Token usage, read from the last bytes of an answer without parsing it."""

from __future__ import annotations

import re
from typing import final

_PROMPT = re.compile(rb'"prompt_tokens":\s*(\d{1,12})')
_COMPLETION = re.compile(rb'"completion_tokens":\s*(\d{1,12})')
_CACHED = re.compile(rb'"cached_tokens":\s*(\d{1,12})')
# The order in which vLLM and OpenAI write it: one look instead of three.
_USUAL = re.compile(
    rb'"usage":\{"prompt_tokens":(\d{1,12}),(?:"total_tokens":\d+,)?"completion_tokens":(\d{1,12})'
    rb'(?:,"total_tokens":\d+)?(?:\}|,"prompt_tokens_details":(?:null|\{"cached_tokens":(\d{1,12})))'
)


@final
class Usage:
    """What an engine reported; None where it did not say."""

    __slots__ = ("cached_tokens", "completion_tokens", "prompt_tokens")

    def __init__(self, prompt_tokens: int, completion_tokens: int | None, cached_tokens: int | None) -> None:
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.cached_tokens = cached_tokens


def find(tail: bytes) -> Usage | None:
    """The last usage object in `tail`. A quote inside generated text is escaped, so it cannot be taken for one."""
    start = tail.rfind(b'"usage":')
    if start < 0:
        return None
    usual = _USUAL.match(tail, start)
    if usual is not None:
        cached_tokens = usual[3]
        return Usage(int(usual[1]), int(usual[2]), None if cached_tokens is None else int(cached_tokens))
    prompt = _PROMPT.search(tail, start)
    if prompt is None:
        return None
    completion = _COMPLETION.search(tail, start)
    cached = _CACHED.search(tail, start)
    return Usage(
        int(prompt[1]),
        int(completion[1]) if completion else None,
        int(cached[1]) if cached else None,
    )

"""Token usage, read from the last bytes of an answer without parsing it."""

from __future__ import annotations

import re
from typing import NamedTuple

_PROMPT = re.compile(rb'"prompt_tokens":\s*(\d{1,12})')
_COMPLETION = re.compile(rb'"completion_tokens":\s*(\d{1,12})')
_CACHED = re.compile(rb'"cached_tokens":\s*(\d{1,12})')


class Usage(NamedTuple):
    """What an engine reported; None where it did not say."""

    prompt_tokens: int
    completion_tokens: int | None
    cached_tokens: int | None


def find(tail: bytes) -> Usage | None:
    """The last usage object in `tail`. A quote inside generated text is escaped, so it cannot be taken for one."""
    start = tail.rfind(b'"usage":')
    if start < 0:
        return None
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

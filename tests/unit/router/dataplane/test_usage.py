"""Usage is found in the tail of an answer, and nowhere else."""

from __future__ import annotations

import json

import pytest

from router.dataplane import usage

DETAILS = {"prompt_tokens_details": {"cached_tokens": 16}}


def found(tail: str) -> tuple[int, int | None, int | None] | None:
    usages = usage.find(tail.encode())
    return None if usages is None else (usages.prompt_tokens, usages.completion_tokens, usages.cached_tokens)


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ('{"usage":{"prompt_tokens":20,"total_tokens":23,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":16}}}', (20, 3, 16)),
        ('{"usage":{"prompt_tokens":20,"completion_tokens":3,"total_tokens":23,"prompt_tokens_details":{"cached_tokens":16}}}', (20, 3, 16)),
        ('{"usage":{"prompt_tokens":20,"total_tokens":23,"completion_tokens":3,"prompt_tokens_details":null}}', (20, 3, None)),
        ('{"usage":{"prompt_tokens":20,"total_tokens":23,"completion_tokens":3}}', (20, 3, None)),
        ('{"usage": {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 16}}}', (20, 3, 16)),
        ('{"usage":{"prompt_tokens_details":{"audio_tokens":0,"cached_tokens":16},"completion_tokens":3,"prompt_tokens":20}}', (20, 3, 16)),
        ('{"usage":{"prompt_tokens":20,"total_tokens":20}}', (20, None, None)),
        ('{"usage":null}', None),
        ('{"choices":[]}', None),
        ("", None),
        ('{"usage":{"prompt_tokens":-5}}', None),
    ],
)  # fmt: skip
def test_usage_in_the_orders_that_engines_write(tail: str, expected: tuple[int, int | None, int | None] | None) -> None:
    """vLLM's order, OpenAI's order, with spaces, in part, or not at all."""
    assert found(tail) == expected


def test_the_last_usage_of_a_stream_counts() -> None:
    """A stream that reports in every chunk is counted once, by its last."""
    chunk = 'data: {"choices":[],"usage":{"prompt_tokens":20,"total_tokens":2%d,"completion_tokens":%d}}\n\n'
    assert found(chunk % (1, 1) + chunk % (7, 7) + "data: [DONE]\n\n") == (20, 7, None)


def test_generated_text_cannot_pass_for_usage() -> None:
    """A model that writes a usage object into its answer is not believed: quotes inside a string are escaped."""
    claim = '{"usage":{"prompt_tokens":999,"total_tokens":999,"completion_tokens":999}}'
    body = {"choices": [{"message": {"content": claim}}]}
    assert usage.find(json.dumps(body, separators=(",", ":")).encode()) is None
    honest = {"usage": {"prompt_tokens": 1, "completion_tokens": 2}, "choices": [{"message": {"content": claim}}]}
    assert found(json.dumps(honest, separators=(",", ":"))) == (1, 2, None)

"""Prompts of traces as hashes, for gateways and for engines."""

from __future__ import annotations

import pytest

from penstock.workload import request
from router.index import blocks
from simulator import requests
from tests.support.simulated import asked


def text(line: int, content: str, **more: object) -> request.TraceRequest:
    """A row with a prompt's text."""
    return request.TraceRequest(float(line), 1, 4, "t", line, text=content, **more)  # type: ignore[arg-type]


def cut(found: list[request.TraceRequest], size: int) -> tuple[requests.Blocks, list[requests.Request]]:
    """All requests at once."""
    how, made = requests.cut(found, size)
    return how, list(made)


def test_ids_are_taken_as_they_are_without_the_unfinished_block() -> None:
    """A prompt of 1,100 tokens has two full blocks of 512."""
    how, made = cut([asked(0, 1100, 5, (7, 8, 9))], 512)
    assert made[0].hashes == made[0].blocks == [7, 8]
    tokens_at = how.tokens_at()
    assert tokens_at is not None
    assert tokens_at(3) == 1536
    assert how.size_of()(0) == 2048


def test_smaller_engine_blocks_part_where_the_ids_part() -> None:
    """Two prompts that share one id of two share just its part of the engine's blocks, the last one's full part too."""
    _, (one, two) = cut([asked(0, 1024, 5, (7, 8)), asked(0, 1000, 5, (7, 9))], 128)
    assert one.blocks[:4] == two.blocks[:4]
    assert len(one.blocks) == 8
    assert len(two.blocks) == 1000 // 128
    assert not set(one.blocks[4:]) & set(two.blocks[4:])


def test_prompts_without_ids_are_unlike_all_others() -> None:
    """A trace of lengths shares nothing."""
    rows = [request.TraceRequest(0.0, 100, 5, "azure", line) for line in (1, 2)]
    _, (one, two) = cut(rows, 16)
    assert len(one.hashes) == len(one.blocks) == 6
    assert not set(one.blocks) & set(two.blocks)


def test_text_is_cut_by_the_gateways_rule() -> None:
    """Gateways hash text as in production; engines know it at four bytes a token."""
    same = "word " * 400
    how, (one, two) = cut([text(1, same + "a" * 200, session="s"), text(2, same + "b" * 200)], 16)
    assert how.tokens is None
    assert how.size_of() is blocks.size_of
    assert one.hashes == blocks.chain((same + "a" * 200).encode(), 0)
    assert one.input_tokens == 550
    shared = sum(a == b for a, b in zip(one.blocks, two.blocks, strict=True))
    assert shared == 2000 // 64
    assert one.session is not None
    assert two.session is None


@pytest.mark.parametrize("body", [{"messages": [{"role": "user", "content": "x" * 400}]}, {"prompt": "x" * 400}])
def test_bodies_are_read_as_text(body: dict[str, object]) -> None:
    """An OpenAI body's messages or prompt are its text."""
    row = request.TraceRequest(0.0, 100, 5, "b", 1, body=body)
    _, made = cut([row], 16)
    assert made[0].input_tokens in (100, 101)
    assert len(made[0].blocks) == 6


def test_nothing_is_nothing() -> None:
    """An empty workload has no requests."""
    assert cut([], 16)[1] == []

"""Prompts share what the trace says they share, and nothing more."""

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.workload import prompts, request

BLOCK_TOKENS = 16
ids = st.lists(st.integers(0, 2**40), min_size=1, max_size=8, unique=True)


def common_bytes(one: str, two: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def asked(block_ids: list[int], tokens: int, line: int = 1) -> request.TraceRequest:
    return request.TraceRequest(0.0, tokens, 1, "t", line, block_ids=tuple(block_ids), block_tokens=BLOCK_TOKENS)


@settings(deadline=None, max_examples=60)
@given(ids, ids, ids, st.integers(0, 9), st.sampled_from([3.0, 4.0, 4.5]))
def test_shared_text_is_the_shared_blocks(
    common: list[int], left: list[int], right: list[int], seed: int, bytes_per_token: float
) -> None:
    """Two prompts share exactly their common blocks, to within the mark of the first block that differs."""
    right = [each for each in right if each != left[0]]
    maker = prompts.Prompts(seed, bytes_per_token)
    texts = [
        maker.text(asked(common + tail, BLOCK_TOKENS * len(common + tail), line))
        for line, tail in ((1, left), (2, right))
    ]
    shared = common_bytes(*texts)
    block = round(BLOCK_TOKENS * bytes_per_token)
    if right:
        assert len(common) * block <= shared < len(common) * block + 13
    else:
        assert shared == len(texts[1])


@settings(deadline=None, max_examples=60)
@given(ids, st.integers(1, BLOCK_TOKENS), st.integers(0, 9))
def test_a_partial_last_block_is_the_beginning_of_the_whole_one(block_ids: list[int], last: int, seed: int) -> None:
    """A prompt that ends inside a block is a prefix of the one that fills it, and has the stated size."""
    maker = prompts.Prompts(seed)
    full = maker.text(asked(block_ids, BLOCK_TOKENS * len(block_ids)))
    tokens = BLOCK_TOKENS * (len(block_ids) - 1) + last
    part = prompts.Prompts(seed).text(asked(block_ids, tokens))
    assert len(part) == tokens * 4
    assert full.startswith(part)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_requests_without_blocks_share_nothing(one: int, two: int) -> None:
    """Prompts of different rows of a trace without prefixes part inside their mark."""
    maker = prompts.Prompts()
    texts = [maker.text(request.TraceRequest(0.0, 50, 1, "t", line)) for line in (one, two)]
    assert (common_bytes(*texts) < 13) == (one != two)


def test_no_two_blocks_begin_alike() -> None:
    """200,000 ids, many more than there are places to cut the text, part within their first 13 characters."""
    maker = prompts.Prompts()
    beginnings = {maker.text(asked([each], 4)) for each in range(200_000)}
    assert len(beginnings) == 200_000

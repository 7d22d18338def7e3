"""Blocks of a prompt's text: where they end, how they are named, how they travel."""

from __future__ import annotations

import pytest

from router.index import blocks


def test_positions_sizes_and_ends_agree() -> None:
    """The end of n blocks is the sum of their sizes, across both changes of size."""
    total = 0
    for position in range(200):
        assert blocks.end_of(position) == total
        total += blocks.size_of(position)
    assert (blocks.end_of(8), blocks.end_of(70)) == (512, 16_384)
    assert [blocks.size_of(position) for position in (7, 8, 69, 70)] == [64, 256, 256, 1_024]


@pytest.mark.parametrize("length", [0, 63, 64, 511, 512, 513, 767, 768, 16_383, 16_384, 17_407, 17_408, 50_000])
def test_chain_has_the_full_blocks_of_a_text(length: int) -> None:
    """As many hashes as blocks fit; the unfinished last one is left out."""
    count = len(blocks.chain(b"x" * length, 1))
    assert blocks.end_of(count) <= length < blocks.end_of(count + 1)


def test_equal_prefixes_have_equal_hashes_until_they_part() -> None:
    """A changed byte changes its block and all after it, and none before."""
    text = bytes(range(256)) * 80
    whole = blocks.chain(text, 7)
    changed = blocks.chain(text[:700] + b"!" + text[701:], 7)
    assert whole[:8] == changed[:8]
    assert all(one != other for one, other in zip(whole[8:], changed[8:], strict=True))
    assert blocks.chain(text[:5_000], 7) == whole[: len(blocks.chain(text[:5_000], 7))]
    assert len(set(whole)) == len(whole)


def test_seeds_keep_tenants_models_and_adapters_apart() -> None:
    """The same text under another seed shares no block, and parts cannot be shifted from one name into the next."""
    seeds = [
        blocks.seed_of(b"m"),
        blocks.seed_of(b"m", b"", b""),
        blocks.seed_of(b"m", b"t", b""),
        blocks.seed_of(b"m", b"", b"t"),
        blocks.seed_of(b"mt", b"", b""),
    ]
    assert len(set(seeds)) == len(seeds)
    chains = [set(blocks.chain(b"x" * 1_000, seed)) for seed in seeds]
    assert sum(map(len, chains)) == len(set().union(*chains))


def test_hashes_travel_packed() -> None:
    """pack and unpack are inverse; a torn message is refused."""
    hashes = [0, 1, (1 << 64) - 1, 0x0102030405060708]
    packed = blocks.pack(hashes)
    assert packed[-8:] == bytes((8, 7, 6, 5, 4, 3, 2, 1))
    assert blocks.unpack(packed) == hashes
    with pytest.raises(ValueError, match="31 bytes is no multiple of 8"):
        blocks.unpack(packed[:-1])

"""The prefix index by example: bounds that reports move, snapshots, ages."""

from __future__ import annotations

import pytest

from router.index import blocks, prefix


def filled(capacity: int | None = None, prompts: int = 10, count: int = 20) -> prefix.PrefixIndex:
    """An index whose slot 0 has had some prompts, one after the other."""
    index = prefix.PrefixIndex(1 << 20)
    index.add_endpoint(0, capacity)
    for number in range(prompts):
        index.insert(0, [number * 1_000 + position + 1 for position in range(count)])
    return index


def test_budget_below_one_entry_is_refused() -> None:
    """A budget that holds nothing is an error that says what is allowed."""
    with pytest.raises(ValueError, match="at least 340 bytes, not 10"):
        prefix.PrefixIndex(10)


def test_a_shortfall_shrinks_what_is_kept_and_hits_grow_it_back() -> None:
    """Fewer cached tokens than predicted drop the oldest twentieth; reports that agree give the room back, up to the capacity."""
    index = filled(capacity=100_000)
    held = index.fill_of(0)
    assert held is not None
    index.observe_cached(0, predicted_tokens=500, cached_tokens=100, block_tokens=64)
    shrunk = index.fill_of(0)
    assert shrunk is not None
    assert 0.9 * held < shrunk <= 0.95 * held
    room, _ = index.room_of(0)
    assert room is not None
    assert room < 5_000
    for _ in range(200):
        index.observe_cached(0, predicted_tokens=500, cached_tokens=500, block_tokens=64)
    room, _ = index.room_of(0)
    assert room == 100_000 - round(shrunk * 100_000)


def test_a_shortfall_within_the_resolution_says_nothing() -> None:
    """Less than one block's difference is how coarse the prediction is, not an eviction."""
    index = filled()
    index.observe_cached(0, predicted_tokens=500, cached_tokens=436, block_tokens=64)
    assert index.blocks_of(0) == 200
    index.observe_cached(0, predicted_tokens=500, cached_tokens=435, block_tokens=64)
    assert index.blocks_of(0) < 200


def test_no_report_lifts_the_bound_over_the_capacity() -> None:
    """An engine that holds little keeps its bound whatever it reports."""
    index = filled(capacity=1_000)
    for _ in range(5):
        index.observe_cached(0, predicted_tokens=500, cached_tokens=0, block_tokens=64)
        index.insert(0, [90_000 + position for position in range(40)])
        fill = index.fill_of(0)
        assert fill is not None
        assert fill <= 1.0


def test_snapshot_is_taken_over_as_it_was() -> None:
    """A peer that loads an export has the same blocks in the same order, and its own are the younger ones."""
    source = filled(prompts=3)
    copy = prefix.PrefixIndex(1 << 20)
    copy.add_endpoint(4, None)
    copy.insert(4, [70_007, 70_008, 5])
    copy.load(4, source.export(0))
    assert copy.export(4) == [block for block in source.export(0) if block != 5] + [5, 70_008, 70_007]
    assert copy.match(list(range(1, 25)), 1 << 4) == [(20, 1 << 4)]


def test_a_snapshots_sizes_are_put_right_by_use() -> None:
    """Blocks of a snapshot have no positions; once they are used again they count with their own size."""
    index = prefix.PrefixIndex(1 << 20)
    index.add_endpoint(0, 100_000)
    hashes = list(range(1, 81))
    index.load(0, hashes[::-1])
    assert index.fill_of(0) == 80 * 256 / 100_000
    index.insert(0, hashes)
    assert index.fill_of(0) == blocks.end_of(80) / 100_000


def test_room_and_whether_anything_went() -> None:
    """The index says how much fits before something is evicted, and whether that has happened."""
    index = filled(capacity=2 * blocks.end_of(20) + 50, prompts=2)
    assert index.room_of(0) == (50, False)
    index.insert(0, [50_000 + position for position in range(20)])
    assert index.room_of(0)[1]


def test_budget_is_taken_from_those_that_hold_most() -> None:
    """When the whole index is over its budget the small endpoint keeps all that it has."""
    index = prefix.PrefixIndex(100 * prefix.BYTES_PER_ENTRY)
    index.add_endpoint(0, None)
    index.add_endpoint(1, None)
    index.insert(1, [1, 2, 3])
    for number in range(40):
        index.insert(0, [1_000 * (number + 1) + position for position in range(7)])
        assert index.entries <= 100
    assert index.blocks_of(1) == 3
    assert index.blocks_of(0) > 80


def test_a_size_put_right_counts_against_the_capacity() -> None:
    """Where a snapshot's blocks turn out larger than was assumed, the oldest go."""
    index = prefix.PrefixIndex(1 << 20)
    index.add_endpoint(0, 25_000)
    hashes = list(range(1, 91))
    index.load(0, hashes[::-1])
    index.insert(0, hashes)
    room, _ = index.room_of(0)
    assert room is not None
    assert room >= 0


def test_new_blocks_count_whatever_the_sizes_come_to() -> None:
    """Blocks that are added while a snapshot's sizes are put right are entries, also where the bytes cancel out."""
    index = prefix.PrefixIndex(1 << 20)
    index.add_endpoint(0, None)
    index.load(0, [8, 7])
    # Six new blocks of 64 bytes, and two that were taken for 256 and have 64.
    index.insert(0, [1, 2, 3, 4, 5, 6, 7, 8])
    assert index.entries == index.blocks_of(0) == 8

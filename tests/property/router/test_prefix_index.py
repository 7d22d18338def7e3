"""The prefix index against a model of plain lists: who has what, in which order, within which bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.index import blocks, prefix

SLOTS = st.integers(0, 4)
# Prompts of a few families: the first blocks are common to a family, the rest to a branch of it.
PROMPTS = st.builds(
    lambda family, branch, count: [
        family * 10_000 + (0 if position < 5 else branch * 1_000) + position + 1 for position in range(count)
    ],
    st.integers(0, 2),
    st.integers(1, 3),
    st.integers(0, 90),
)
CAPACITIES = st.none() | st.integers(300, 30_000)


def matched_by_model(held: dict[int, list[int]], hashes: list[int], among: int) -> list[tuple[int, int]]:
    """What `match` has to give, by looking at every endpoint."""
    levels: dict[int, int] = {}
    for slot in range(among.bit_length()):
        if among >> slot & 1:
            have = set(held.get(slot, ()))
            depth = 0
            while depth < len(hashes) and hashes[depth] in have:
                depth += 1
            levels[depth] = levels.get(depth, 0) | 1 << slot
    return sorted(levels.items())


class Index(RuleBasedStateMachine):
    """Any order of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = 250
        self.index = prefix.PrefixIndex(self.budget * prefix.BYTES_PER_ENTRY)
        # Oldest first, as the engine would evict.
        self.model: dict[int, list[int]] = {}
        self.capacity: dict[int, int | None] = {}

    def take_over(self) -> None:
        """What is left of each endpoint is the youngest part of what the model has."""
        for slot, order in self.model.items():
            left = self.index.export(slot)
            assert left == order[len(order) - len(left) :]
            self.model[slot] = left

    @rule(slot=SLOTS, capacity=CAPACITIES)
    def add(self, slot: int, capacity: int | None) -> None:
        """A taken slot is refused."""
        if slot in self.model:
            with pytest.raises(ValueError, match=f"slot {slot} is taken"):
                self.index.add_endpoint(slot, capacity)
            return
        self.index.add_endpoint(slot, capacity)
        self.model[slot] = []
        self.capacity[slot] = capacity

    @precondition(lambda self: self.model)
    @rule(data=st.data(), hashes=PROMPTS)
    def insert(self, data: st.DataObject, hashes: list[int]) -> None:
        """A prompt's blocks become the youngest, its tail the oldest of them."""
        slot = data.draw(st.sampled_from(sorted(self.model)))
        before = {other: len(order) for other, order in self.model.items()}
        self.index.insert(slot, hashes)
        self.model[slot] = [block for block in self.model[slot] if block not in hashes] + hashes[::-1]
        if self.capacity[slot] is None and sum(before.values()) + len(hashes) <= self.budget and not self.shrunk(slot):
            assert self.index.export(slot) == self.model[slot], "nothing is dropped while there is room"
        self.take_over()

    def shrunk(self, slot: int) -> bool:
        """Whether reports have put a bound on an endpoint of unknown capacity."""
        return self.index.room_of(slot)[0] is not None

    @precondition(lambda self: self.model)
    @rule(data=st.data(), hashes=PROMPTS)
    def load(self, data: st.DataObject, hashes: list[int]) -> None:
        """A snapshot's blocks are older than all that is here."""
        slot = data.draw(st.sampled_from(sorted(self.model)))
        self.index.load(slot, hashes)
        own = set(self.model[slot])
        self.model[slot] = [block for block in hashes if block not in own] + self.model[slot]
        self.take_over()

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        """A cleared endpoint has nothing."""
        slot = data.draw(st.sampled_from(sorted(self.model)))
        self.index.clear(slot)
        self.model[slot] = []

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """A removed endpoint leaves no bit behind."""
        slot = data.draw(st.sampled_from(sorted(self.model)))
        self.index.remove_endpoint(slot)
        del self.model[slot], self.capacity[slot]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), capacity=CAPACITIES)
    def set_capacity(self, data: st.DataObject, capacity: int | None) -> None:
        """A new capacity holds at once."""
        slot = data.draw(st.sampled_from(sorted(self.model)))
        self.index.set_capacity(slot, capacity)
        self.capacity[slot] = capacity
        self.take_over()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), predicted=st.integers(0, 500), cached=st.integers(0, 500))
    def observe(self, data: st.DataObject, predicted: int, cached: int) -> None:
        """What engines report moves the bound and drops only the oldest."""
        slot = data.draw(st.sampled_from(sorted(self.model)))
        self.index.observe_cached(slot, predicted, cached, 16)
        self.take_over()

    @precondition(lambda self: self.model)
    @rule(hashes=PROMPTS, among=st.integers(0, 31))
    def match(self, hashes: list[int], among: int) -> None:
        """Each endpoint's longest match, as a look at every endpoint gives it."""
        known = sum(1 << slot for slot in self.model)
        among &= known
        if among:
            levels = self.index.match(hashes, among)
            assert levels == matched_by_model(self.model, hashes, among)

    @invariant()
    def books_are_right(self) -> None:
        """Entries are what the endpoints hold, within all bounds, and no holder is left dangling."""
        assert self.index.entries == sum(map(len, self.model.values())) <= self.budget
        assert self.index.bytes <= self.budget * prefix.BYTES_PER_ENTRY
        holders: dict[int, int] = {}
        for slot, order in self.model.items():
            assert self.index.blocks_of(slot) == len(order) == len(set(order))
            for block in order:
                holders[block] = holders.get(block, 0) | 1 << slot
            room, _ = self.index.room_of(slot)
            assert room is None or room >= 0
            capacity = self.capacity[slot]
            if capacity is not None:
                fill = self.index.fill_of(slot)
                assert fill is not None
                assert 0 <= fill <= 1
        assert self.index._holders == holders


Index.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_any_order_of_calls = Index.TestCase


@given(st.integers(0, 400))
def test_text_of_known_size_fills_as_many_bytes(count: int) -> None:
    """Bytes held are those that the blocks cover."""
    index = prefix.PrefixIndex(1 << 20)
    index.add_endpoint(0, 1_000_000)
    index.insert(0, list(range(1, count + 1)))
    index.insert(0, list(range(1, count + 1)))
    assert index.fill_of(0) == blocks.end_of(count) / 1_000_000


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(2_000, 9_000))
def test_capacity_evicts_little_more_than_it_must(lengths: list[int], capacity: int) -> None:
    """After an eviction at least 31/32 of the capacity, less one block, is still used."""
    index = prefix.PrefixIndex(1 << 20)
    index.add_endpoint(0, capacity)
    for number, count in enumerate(lengths):
        evicted = index.evictions
        index.insert(0, [number * 1_000 + position + 1 for position in range(count)])
        room, _ = index.room_of(0)
        assert room is not None
        assert room >= 0
        if index.evictions > evicted:
            assert room <= capacity / 32 + 256

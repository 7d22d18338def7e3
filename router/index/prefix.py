"""The prefix index: for each block hash the set of endpoints that should have it cached.

Sets of endpoints are ints used as bit sets, so the longest match of all endpoints at once costs one AND per block,
whatever their number. Each endpoint's blocks are kept in the engine's own eviction order (least recently used first,
within a prompt the tail first) and bounded by what that engine can hold; the whole index is bounded by a byte budget.
"""

from __future__ import annotations

from collections.abc import Callable

from router.index import blocks

# Measured with 8 and with 1,000 endpoints after many unique prompts: a slot in each of two dicts, with its key and its size,
# and the room that dicts keep when keys come and go.
BYTES_PER_ENTRY = 340
# Over the budget, so many entries go at once at most, from the largest of so many endpoints.
_DROPPED_AT_ONCE = 256
_LOOKED_AT = 16


class EndpointBlocks:
    """One endpoint's share of the index."""

    __slots__ = ("bit", "capacity_bytes", "evicts", "held_bytes", "limit_bytes", "lru")

    def __init__(self, bit: int, capacity_bytes: int | None) -> None:
        self.bit = bit
        # hash -> bytes of text that the block covers; least recently used first.
        self.lru: dict[int, int] = {}
        self.held_bytes = 0
        # What the engine can hold, in bytes of text; None while unknown.
        self.capacity_bytes = capacity_bytes
        # What is kept of it: shrinks while the engine reports fewer cached tokens than the index predicts.
        self.limit_bytes = capacity_bytes
        # Whether it has evicted anything yet.
        self.evicts = False


def _blocks_held(held: EndpointBlocks) -> int:
    return len(held.lru)


class PrefixIndex:
    """Who has which prefix. Not thread-safe: one event loop owns it."""

    def __init__(self, budget_bytes: int, size_of: Callable[[int], int] = blocks.size_of) -> None:
        """`size_of` gives the bytes of text that the block at a position (from 0) covers, 65,535 at most."""
        if budget_bytes < BYTES_PER_ENTRY:
            raise ValueError(f"index budget: at least {BYTES_PER_ENTRY} bytes, not {budget_bytes}")
        self.budget_entries = budget_bytes // BYTES_PER_ENTRY
        self.entries = 0
        self.evictions = 0
        self._size_of = size_of
        self._holders: dict[int, int] = {}
        self._endpoints: dict[int, EndpointBlocks] = {}
        # Where the next look for what is over the budget begins.
        self._turn = 0

    @property
    def size_of(self) -> Callable[[int], int]:
        """Bytes of text that the block at a position covers."""
        return self._size_of

    def add_endpoint(self, slot: int, capacity_bytes: int | None) -> None:
        """A new endpoint in `slot`; `capacity_bytes` is what its engine can hold, in bytes of text."""
        if slot in self._endpoints:
            raise ValueError(f"slot {slot} is taken")
        self._endpoints[slot] = EndpointBlocks(1 << slot, capacity_bytes)

    def set_capacity(self, slot: int, capacity_bytes: int | None) -> None:
        """What the engine can hold has become known or has changed."""
        held = self._endpoints[slot]
        held.capacity_bytes = held.limit_bytes = capacity_bytes
        self._shrink(held)

    def remove_endpoint(self, slot: int) -> None:
        """Forgets an endpoint. Costs its number of blocks."""
        self.clear(slot)
        del self._endpoints[slot]

    def clear(self, slot: int) -> None:
        """The endpoint's cache is empty (restart, reset)."""
        held = self._endpoints[slot]
        holders = self._holders
        inverse = ~held.bit
        for block in held.lru:
            left = holders[block] & inverse
            if left:
                holders[block] = left
            else:
                del holders[block]
        self.entries -= len(held.lru)
        held.lru = {}
        held.held_bytes = 0

    def match(self, hashes: list[int], among: int) -> list[tuple[int, int]]:
        """Longest match of each endpoint in the bit set `among`.

        Returns (blocks, bit set of the endpoints whose match ends there), shortest first; the sets are disjoint, and
        together they are `among`.
        """
        levels: list[tuple[int, int]] = []
        get = self._holders.get
        left = among
        depth = 0
        for block in hashes:
            here = left & get(block, 0)
            if here != left:
                levels.append((depth, left ^ here))
                if not here:
                    return levels
                left = here
            depth += 1
        levels.append((depth, left))
        return levels

    def insert(self, slot: int, hashes: list[int]) -> None:
        """The endpoint in `slot` now has (or will have, when it has computed them) these blocks, most recently used."""
        held = self._endpoints[slot]
        bit = held.bit
        lru = held.lru
        pop = lru.pop
        holders = self._holders
        get = holders.get
        added = added_bytes = 0
        size_of = self._size_of
        position = len(hashes)
        for block in reversed(hashes):
            position -= 1
            size = size_of(position)
            known = pop(block, 0)
            if known:
                # A snapshot's blocks came without their sizes.
                added_bytes += size - known
            else:
                added += 1
                added_bytes += size
                before = get(block)
                holders[block] = bit if before is None else before | bit
            lru[block] = size
        if added or added_bytes:
            self.entries += added
            held.held_bytes += added_bytes
            if held.limit_bytes is not None and held.held_bytes > held.limit_bytes:
                self._shrink(held)
            if self.entries > self.budget_entries:
                self._enforce_budget()

    def observe_cached(self, slot: int, predicted_tokens: float, cached_tokens: float, block_tokens: float) -> None:
        """Corrects the endpoint's bound by what its engine reported for one prompt.

        A shortfall of more than `block_tokens` (the resolution of the prediction) means that blocks of that age are gone:
        the bound shrinks by a twentieth. Otherwise it grows back towards the engine's capacity.
        """
        held = self._endpoints[slot]
        if cached_tokens + block_tokens < predicted_tokens:
            limit = max(4_096, int(held.held_bytes * 0.95))
            full = held.capacity_bytes
            held.limit_bytes = limit if full is None or limit < full else full
            self._shrink(held)
        elif held.limit_bytes is not None and held.limit_bytes != held.capacity_bytes:
            grown = held.limit_bytes + held.limit_bytes // 50 + 1_024
            full = held.capacity_bytes
            held.limit_bytes = grown if full is None or grown < full else full

    def bound(self, slot: int, resident_bytes: int) -> None:
        """The engine says that it evicts and what it holds now: the index keeps no more of it, its oldest blocks go."""
        held = self._endpoints[slot]
        floor = max(4_096, resident_bytes)
        held.limit_bytes = floor if held.capacity_bytes is None else min(floor, held.capacity_bytes)
        self._shrink(held)

    def blocks_of(self, slot: int) -> int:
        """Number of blocks that the endpoint is believed to have."""
        return len(self._endpoints[slot].lru)

    def fill_of(self, slot: int) -> float | None:
        """Share of the engine's capacity that the index believes filled; None while the capacity is unknown."""
        held = self._endpoints[slot]
        return held.held_bytes / held.capacity_bytes if held.capacity_bytes else None

    def room_of(self, slot: int) -> tuple[int | None, bool]:
        """Bytes of text that the endpoint takes before it evicts (None: unknown), and whether it has evicted anything yet."""
        held = self._endpoints[slot]
        return None if held.limit_bytes is None else held.limit_bytes - held.held_bytes, held.evicts

    def export(self, slot: int) -> list[int]:
        """The endpoint's blocks, least recently used first."""
        return list(self._endpoints[slot].lru)

    def load(self, slot: int, hashes: list[int]) -> None:
        """Takes over blocks of a peer's snapshot, least recently used first, older than all that is here."""
        held = self._endpoints[slot]
        newer = held.lru
        held.lru = {}
        for block in hashes:
            if block not in newer:
                # A snapshot does not carry positions: the middle size is the least wrong.
                held.lru[block] = 256
                held.held_bytes += 256
                self.entries += 1
                self._holders[block] = self._holders.get(block, 0) | held.bit
        held.lru.update(newer)
        self._shrink(held)
        if self.entries > self.budget_entries:
            self._enforce_budget()

    @property
    def bytes(self) -> int:
        """Estimated memory, bytes."""
        return self.entries * BYTES_PER_ENTRY

    def _shrink(self, held: EndpointBlocks) -> None:
        """Drops the oldest blocks once the endpoint is over its bound.

        A thirty-second more than needed goes, because finding the oldest key of a dict costs a walk over the places
        that earlier removals left empty.
        """
        if held.limit_bytes is None or held.held_bytes <= held.limit_bytes:
            return
        self._drop(held, 1 << 62, held.limit_bytes - held.limit_bytes // 32)

    def _enforce_budget(self) -> None:
        """Drops a little more than the budget asks for, from the largest of a few endpoints that are looked at in turn.

        Little at a time, because a request waits for it; never from all endpoints, because there may be thousands.
        """
        target = self.budget_entries - min(self.budget_entries // 64, _DROPPED_AT_ONCE)
        everyone = list(self._endpoints.values())
        count = len(everyone)
        while self.entries > target:
            start = self._turn % count
            some = everyone[start : start + _LOOKED_AT]
            if len(some) < _LOOKED_AT:
                some += everyone[: min(start, _LOOKED_AT - len(some))]
            self._turn = start + _LOOKED_AT
            largest = sorted(some, key=_blocks_held, reverse=True)[:4]
            excess = self.entries - target
            together = sum(len(held.lru) for held in largest)
            for held in largest:
                if together and self.entries > target:
                    # In proportion, so that an endpoint that holds little does not pay for those that hold much.
                    self._drop(held, len(held.lru) * excess // together + 1, 0)

    def _drop(self, held: EndpointBlocks, count: int, until_bytes: int) -> None:
        """Drops up to `count` of the oldest blocks, stopping once at most `until_bytes` are held."""
        lru = held.lru
        holders = self._holders
        inverse = ~held.bit
        doomed: list[int] = []
        for block, size in lru.items():
            if len(doomed) >= count or held.held_bytes <= until_bytes:
                break
            doomed.append(block)
            held.held_bytes -= size
        held.evicts = True
        for block in doomed:
            del lru[block]
            left = holders[block] & inverse
            if left:
                holders[block] = left
            else:
                del holders[block]
        self.entries -= len(doomed)
        self.evictions += len(doomed)

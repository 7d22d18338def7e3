"""The blocks that requests in flight hold at one endpoint, each counted once however many requests share it."""

from __future__ import annotations

from collections.abc import Callable


class Pins:
    """Counts requests per block. `held_bytes` is the text that the blocks stand for."""

    __slots__ = ("_counts", "_size_of", "held_bytes")

    def __init__(self, size_of: Callable[[int], int]) -> None:
        """`size_of` gives the bytes of text that the block at a position (from 0) covers."""
        self._counts: dict[int, int] = {}
        self._size_of = size_of
        self.held_bytes = 0

    def add(self, hashes: list[int]) -> None:
        """A request holds these blocks from now on."""
        counts = self._counts
        for position, block in enumerate(hashes):
            known = counts.get(block, 0)
            counts[block] = known + 1
            if not known:
                self.held_bytes += self._size_of(position)

    def remove(self, hashes: list[int]) -> None:
        """A request that was added holds them no longer."""
        counts = self._counts
        for position, block in enumerate(hashes):
            left = counts[block] - 1
            if left:
                counts[block] = left
            else:
                del counts[block]
                self.held_bytes -= self._size_of(position)

    def shared_bytes(self, hashes: list[int]) -> int:
        """How much of a prompt is held already: its first blocks, as far as all of them are."""
        counts = self._counts
        shared = 0
        for position, block in enumerate(hashes):
            if block not in counts:
                return shared
            shared += self._size_of(position)
        return shared

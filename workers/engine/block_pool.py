"""The paged KV cache: fixed blocks, reference counts, and prefix reuse by chained block hash.

It behaves as vLLM's block pool does (vllm/v1/core/block_pool.py): a block whose last user is gone stays findable
by its hash until it is taken again, the least recently freed first. One simplification: of two blocks computed at
the same time with the same hash, only the first can be found by it.
"""

import collections
from collections.abc import Iterable, Sequence

Block = int
Hash = int


class BlockPool:
    """Blocks 0..n-1 of a KV cache. A block is either free or referenced; a free one may still hold a cached hash."""

    __slots__ = ("_by_hash", "_free", "_hash", "_refs", "num_blocks", "removed")

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks is {num_blocks}; it must be at least 1")
        self.num_blocks = num_blocks
        self.removed: list[Hash] = []
        """Hashes evicted since the owner last took this list."""
        self._refs = [0] * num_blocks
        self._hash: list[Hash | None] = [None] * num_blocks
        self._free: collections.OrderedDict[Block, None] = collections.OrderedDict.fromkeys(range(num_blocks))
        self._by_hash: dict[Hash, Block] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody references."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Blocks that can be found by a hash, referenced or free."""
        return len(self._by_hash)

    @property
    def usage(self) -> float:
        """Share of the blocks that are referenced, 0 to 1."""
        return 1.0 - len(self._free) / self.num_blocks

    def match(self, hashes: Sequence[Hash], limit: int) -> list[Block]:
        """Blocks of the longest cached prefix of `hashes`, `limit` blocks at most. Takes no reference."""
        found: list[Block] = []
        by_hash = self._by_hash
        for block_hash in hashes[:limit]:
            block = by_hash.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def count_free(self, blocks: Iterable[Block]) -> int:
        """How many of `blocks` are free now, so that taking them would use up free blocks."""
        refs = self._refs
        return sum(1 for block in blocks if not refs[block])

    def take(self, blocks: Iterable[Block]) -> None:
        """Add a reference to each of `blocks` (found by `match`)."""
        refs, free = self._refs, self._free
        for block in blocks:
            if not refs[block]:
                del free[block]
            refs[block] += 1

    def allocate(self, count: int) -> list[Block]:
        """`count` blocks with one reference each, evicting cached ones if need be. Raises MemoryError when short."""
        free = self._free
        if count > len(free):
            raise MemoryError(f"{count} blocks wanted, {len(free)} free")
        blocks: list[Block] = []
        refs, hashes = self._refs, self._hash
        for _ in range(count):
            block, _none = free.popitem(last=False)
            refs[block] = 1
            old = hashes[block]
            if old is not None:
                hashes[block] = None
                del self._by_hash[old]
                self.removed.append(old)
            blocks.append(block)
        return blocks

    def allocate_one(self) -> Block:
        """As `allocate(1)`. Raises MemoryError when there is none."""
        if not self._free:
            raise MemoryError("1 block wanted, 0 free")
        block, _none = self._free.popitem(last=False)
        self._refs[block] = 1
        old = self._hash[block]
        if old is not None:
            self._hash[block] = None
            del self._by_hash[old]
            self.removed.append(old)
        return block

    def release(self, blocks: Sequence[Block]) -> None:
        """Drop one reference of each of a sequence's blocks. The tail becomes evictable before the head."""
        refs, free = self._refs, self._free
        for block in reversed(blocks):
            refs[block] -= 1
            if not refs[block]:
                free[block] = None

    def cache(self, block: Block, block_hash: Hash) -> bool:
        """Make a full block findable by its hash. False if another block already is."""
        if block_hash in self._by_hash:
            return False
        self._by_hash[block_hash] = block
        self._hash[block] = block_hash
        return True

    def clear(self) -> bool:
        """Forget every cached hash. False, and nothing changed, while any block is referenced."""
        if len(self._free) != self.num_blocks:
            return False
        self._by_hash.clear()
        self._hash = [None] * self.num_blocks
        return True

    def check(self) -> None:
        """Raise AssertionError if a block is both free and referenced, lost, or filed under a wrong hash."""
        assert all(refs >= 0 for refs in self._refs), "negative reference count"
        assert all((refs == 0) == (block in self._free) for block, refs in enumerate(self._refs)), "free and referenced"
        for block_hash, block in self._by_hash.items():
            assert self._hash[block] == block_hash, "block filed under a hash that it does not hold"
        assert sum(1 for value in self._hash if value is not None) == len(self._by_hash), "hash without an entry"

"""The KV memory of an engine's requests: which blocks each has, which of them can be found again, and what became of others."""

from __future__ import annotations

from workers.engine import block_pool, types


class Memory:
    """Blocks of requests, taken from one pool; keeps the events about them until they are drained."""

    __slots__ = ("_caching", "_counters", "_events", "_reported", "_size", "pool")

    def __init__(self, config: types.EngineConfig, counters: types.Counters) -> None:
        self.pool = block_pool.BlockPool(config.kv_blocks)
        self._counters = counters
        self._size = config.block_size
        self._caching = config.prefix_caching
        self._reported = config.kv_events
        self._events: list[types.KvEvent] = []

    def fits(self, request: types.Request) -> bool:
        """Whether there is room for the whole prompt of a request that has no blocks."""
        hits, missing = self._find(request)
        return missing + self.pool.count_free(hits) <= self.pool.num_free

    def take(self, request: types.Request) -> bool:
        """Take the blocks of the whole prompt, cached ones first; False, with nothing taken, if they do not fit."""
        hits, missing = self._find(request)
        if missing + self.pool.count_free(hits) > self.pool.num_free:
            return False
        self.pool.take(hits)
        request.cached_blocks = len(hits)
        request.computed = len(hits) * self._size
        request.blocks = hits + self.pool.allocate(missing)
        self._note_removed()
        return True

    def grow(self, request: types.Request) -> None:
        """Take one block more. Raises MemoryError when there is none."""
        request.blocks.append(self.pool.allocate_one())
        self._note_removed()

    def free(self, request: types.Request) -> None:
        """Give a request's blocks back; those that are cached can still be found."""
        self.pool.release(request.blocks)
        request.blocks = []
        request.cached_blocks = 0

    def cache_full(self, request: types.Request, computed: int) -> None:
        """Make the blocks that `computed` tokens fill findable, as far as their hashes are known."""
        first, full = request.cached_blocks, computed // self._size
        if full <= first or not self._caching:
            return
        if len(request.hashes) < full:
            _extend_hashes(request, full)
            full = min(full, len(request.hashes))
        hashes, cache = request.hashes, self.pool.cache
        stored_from: int | None = None
        for index in range(first, full):
            if cache(request.blocks[index], hashes[index]):
                if stored_from is None:
                    stored_from = index
            elif stored_from is not None:
                self._report_stored(request, stored_from, index)
                stored_from = None
        if stored_from is not None:
            self._report_stored(request, stored_from, full)
        request.cached_blocks = max(first, full)

    def clear(self) -> bool:
        """Forget every cached block. False, and nothing changed, while requests hold blocks."""
        if not self.pool.clear():
            return False
        self.pool.removed.clear()
        if self._reported:
            self._events.append(types.BlocksCleared())
        return True

    def drain_events(self) -> list[types.KvEvent]:
        """What has happened since this was last called."""
        events, self._events = self._events, []
        return events

    def _find(self, request: types.Request) -> tuple[list[block_pool.Block], int]:
        """Cached blocks of a request's longest prefix, and how many more it needs."""
        # At least the last token is computed, since its output is what the next token is sampled from, but where that token
        # came with the KV from elsewhere.
        known = request.remote and request.generated
        limit = (request.target - (not known)) // self._size if self._caching else 0
        hits = self.pool.match(request.hashes, limit)
        return hits, -(-request.target // self._size) - len(hits)

    def _note_removed(self) -> None:
        removed = self.pool.removed
        if removed:
            self._counters.evicted_blocks += len(removed)
            if self._reported:
                self._events.append(types.BlocksRemoved(tuple(removed)))
            removed.clear()

    def _report_stored(self, request: types.Request, start: int, stop: int) -> None:
        if self._reported:
            parent = request.hashes[start - 1] if start else None
            self._events.append(types.BlocksStored(request, start, request.hashes[start:stop], parent))


def _extend_hashes(request: types.Request, full: int) -> None:
    if request.extend is not None:
        known = len(request.hashes)
        request.hashes = [*request.hashes, *request.extend(known, full - known)]

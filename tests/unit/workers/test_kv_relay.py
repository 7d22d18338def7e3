"""What a stream of KV events comes to."""

from __future__ import annotations

from workers import kv_relay
from workers.adapters import kv_events, kv_wire


def _batch(*events: kv_wire.Event) -> kv_wire.Batch:
    return kv_wire.Batch(sequence=0, timestamp_s=0.0, events=events, dp_rank=None)


def _stored(*hashes: int, group: int = 0, medium: str = "GPU") -> kv_wire.Stored:
    return kv_wire.Stored(hashes, None, (), 16, group=group, medium=medium)


def test_counts_what_is_resident_and_what_was_evicted() -> None:
    """Stored blocks are counted once, evicted ones only where they were there; other groups and media are not counted."""
    cache = kv_relay.Cache()
    cache.take(_batch(_stored(1, 2, 3), _stored(2, 4), _stored(9, group=1), _stored(8, medium="CPU")))
    cache.take(_batch(kv_wire.Removed((1, 7)), kv_wire.Removed((2,), medium="CPU")))
    report = cache.report("w/1", 1)
    assert (report.resident_blocks, report.block_tokens, report.evicted_blocks) == (3, 16, 1)
    assert not (report.cleared or report.approximate)


def test_report_begins_anew() -> None:
    """Evictions and a clearing are reported once; what is resident stays."""
    cache = kv_relay.Cache()
    cache.take(_batch(_stored(1, 2), kv_wire.Cleared(), _stored(3), kv_wire.Removed((3,))))
    first, second = cache.report("w/1", 1), cache.report("w/1", 2)
    assert (first.cleared, first.evicted_blocks, first.resident_blocks) == (True, 1, 0)
    assert (second.cleared, second.evicted_blocks) == (False, 0)
    assert not cache.changed


def test_missed_events_make_it_approximate_until_all_is_known_again() -> None:
    """A gap or a garbled batch is said, and stays said until the cache was emptied or the engine began anew."""
    cache = kv_relay.Cache()
    cache.take(kv_events.Gap(3, 4))
    assert cache.report("w/1", 1).approximate
    assert cache.report("w/1", 2).approximate
    cache.take(_batch(kv_wire.Cleared()))
    assert not cache.report("w/1", 3).approximate
    cache.take(kv_events.Garbled(5, "bad"))
    cache.take(kv_events.Restarted())
    report = cache.report("w/1", 4)
    assert report.cleared and not report.approximate

"""Copies of collections, and the queue of what is due."""

from __future__ import annotations

import asyncio
from typing import Any

from operators import cache, queue
from penstock.runtime import clock as clocks


def thing(name: str, version: int, label: str = "", namespace: str = "n") -> dict[str, Any]:
    """An object of a collection."""
    meta = {"name": name, "namespace": namespace, "resourceVersion": str(version), "labels": {"of": label}}
    return {"metadata": meta}


def store() -> cache.Store:
    """A store with an index by label."""
    return cache.Store(lambda it: [(it["metadata"]["namespace"], it["metadata"]["labels"]["of"])])


def test_the_index_follows_the_objects() -> None:
    """An object is found by its present label only, and not after it is gone."""
    found = store()
    found.put(thing("a", 1, "x"))
    found.put(thing("b", 2, "x"))
    found.put(thing("a", 3, "y"))
    assert [each["metadata"]["name"] for each in found.of("n", "x")] == ["b"]
    assert found.remove(thing("a", 4, "y"))
    assert found.of("n", "y") == [] and found.of("other", "x") == []


def test_an_older_sight_does_not_replace_a_newer_one() -> None:
    """What the watch tells late does not undo what this operator wrote."""
    found = store()
    found.put(thing("a", 5, "new"))
    assert not found.put(thing("a", 4, "old"))
    assert not found.remove(thing("a", 4))
    assert found.of("n", "new")


def test_what_is_gone_does_not_come_back_by_a_late_answer() -> None:
    """An answer to what was asked before the object's end; one of the same name that is made later is another."""
    found = store()
    found.put(thing("a", 10, "x"))
    assert found.remove(thing("a", 12, "x"))
    assert not found.put(thing("a", 11, "x"))
    assert not found.put(thing("a", 12, "x"))
    assert len(found) == 0 and found.of("n", "x") == []
    assert found.put(thing("a", 13, "x"))


def test_what_a_list_lacked_does_not_come_back_either() -> None:
    """It was gone when the list was made."""
    found = store()
    found.put(thing("a", 10))
    assert found.replace([], 20)
    assert not found.put(thing("a", 15))
    assert len(found) == 0
    assert found.put(thing("a", 21))


def test_only_so_many_ends_are_remembered() -> None:
    """The oldest go first."""
    found = store()
    for number in range(10_001):
        found.remove(thing(f"a{number}", 100))
    assert found.put(thing("a0", 1)) and not found.put(thing("a1", 1))


def test_a_list_replaces_all_but_what_was_written_since() -> None:
    """Objects that the list lacks are gone, except those that were made after it."""
    found = store()
    found.put(thing("gone", 1))
    found.put(thing("made", 9))
    gone = found.replace([thing("a", 3)], 5)
    assert [each["metadata"]["name"] for each in gone] == ["gone"]
    assert sorted(each["metadata"]["name"] for each in found) == ["a", "made"]


async def test_a_key_is_never_taken_twice_at_a_time() -> None:
    """Marked while it is worked on, it comes again after that, once."""
    clock = clocks.ManualClock()
    due: queue.WorkQueue[str] = queue.WorkQueue(clock)
    due.mark("a")
    due.mark("a")
    assert (await due.take())[0] == "a"
    due.mark("a")
    due.mark("a")
    due.mark("b")
    assert (await due.take())[0] == "b"
    waiting = asyncio.create_task(due.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    due.done("a")
    assert (await waiting)[0] == "a"
    due.done("a")
    assert len(due) == 0


async def test_the_sooner_mark_counts() -> None:
    """A key that is due later is due at once where it is marked so, and only once."""
    clock = clocks.ManualClock()
    due: queue.WorkQueue[str] = queue.WorkQueue(clock)
    due.mark("a", 60)
    due.mark("a")
    assert (await due.take())[0] == "a"
    due.done("a")
    await clock.advance(61)
    assert len(due) == 0

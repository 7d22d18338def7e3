"""KV on shared links: who gets which share, and when it is there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine import transfers

WORKERS = ("a", "b", "c")


def links(**bandwidths: float) -> transfers.Links:
    """Links with these bandwidths, bytes per s."""
    made = transfers.Links()
    for name, rate in bandwidths.items():
        made.add(name, rate)
    return made


def test_a_transfer_alone_has_the_slower_link() -> None:
    """Its time is its bytes over the smaller bandwidth."""
    there = links(a=100.0, b=40.0)
    one = transfers.Transfer("a", "b", 200.0)
    assert there.start(one, 1.0) == [one]
    assert one.end_s == pytest.approx(6.0)


def test_two_that_share_a_link_take_turns_and_speed_up() -> None:
    """Each has half while both are under way, the second all of it once the first is done."""
    there = links(a=100.0, b=100.0, c=100.0)
    first, second = transfers.Transfer("a", "b", 100.0), transfers.Transfer("a", "c", 150.0)
    there.start(first, 0.0)
    assert there.start(second, 0.5) == [first, second]
    assert first.end_s == pytest.approx(1.5)
    assert there.stop(first, 1.5) == [second]
    assert second.end_s == pytest.approx(2.5)
    assert there.under_way("a") == (1, 0)
    there.stop(second, 2.5)
    assert there.stop(second, 2.5) == []
    assert there.under_way("a") == (0, 0)


def test_both_ways_are_apart() -> None:
    """What a worker sends takes nothing from what it receives."""
    there = links(a=100.0, b=100.0)
    to, back = transfers.Transfer("a", "b", 100.0), transfers.Transfer("b", "a", 100.0)
    there.start(to, 0.0)
    there.start(back, 0.0)
    assert (to.end_s, back.end_s) == (pytest.approx(1.0), pytest.approx(1.0))


def test_a_link_that_gets_slower_delays_what_is_left() -> None:
    """Half is sent; the rest takes ten times as long."""
    there = links(a=100.0, b=100.0)
    one = transfers.Transfer("a", "b", 100.0)
    there.start(one, 0.0)
    assert there.set_bandwidth("b", 10.0, 0.5) == [one]
    assert one.end_s == pytest.approx(5.5)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_link_has_a_bandwidth(rate: float) -> None:
    """One that could never send anything is an error."""
    with pytest.raises(ValueError, match="bytes_per_s"):
        links(a=rate)


PLANS = st.lists(
    st.tuples(st.floats(0, 5), st.sampled_from(WORKERS), st.sampled_from(WORKERS), st.floats(1, 1e3)),
    min_size=1,
    max_size=15,
)


@settings(max_examples=100, deadline=None)
@given(
    PLANS, st.lists(st.floats(1, 500), min_size=3, max_size=3), st.none() | st.tuples(st.floats(0, 9), st.floats(1, 99))
)
def test_bytes_are_conserved(
    plan: list[tuple[float, str, str, float]], rates: list[float], change: tuple[float, float] | None
) -> None:
    """Every transfer moves exactly its bytes, no link ever more than it can, and none is left."""
    there = links(**dict(zip(WORKERS, rates, strict=True)))
    limits = dict(zip(WORKERS, rates, strict=True))
    todo = sorted((at_s, number, source, target, size) for number, (at_s, source, target, size) in enumerate(plan))
    running: dict[transfers.Transfer, float] = {}
    now_s = 0.0
    while todo or running:
        ends = min((each.end_s for each in running), default=float("inf"))
        begins = todo[0][0] if todo else float("inf")
        changes = change[0] if change else float("inf")
        then_s = max(now_s, min(ends, begins, changes))
        for name in WORKERS:
            assert sum(each.rate for each in running if each.source == name) <= limits[name] * (1 + 1e-9)
            assert sum(each.rate for each in running if each.target == name) <= limits[name] * (1 + 1e-9)
        for each in running:
            running[each] += each.rate * (then_s - now_s)
        now_s = then_s
        if change and changes <= min(ends, begins):
            limits["a"] = change[1]
            there.set_bandwidth("a", change[1], now_s)
            change = None
        elif begins <= ends:
            _, _, source, target, size = todo.pop(0)
            one = transfers.Transfer(source, target, size)
            running[one] = 0.0
            assert one in there.start(one, now_s)
        else:
            done = min(running, key=lambda each: each.end_s)
            assert running.pop(done) == pytest.approx(done.bytes, rel=1e-6)
            there.stop(done, now_s)
    assert all(there.under_way(name) == (0, 0) for name in WORKERS)

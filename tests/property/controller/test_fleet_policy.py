"""The fleet policy on arbitrary fleets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.policy import fleet

SEEN = st.builds(
    fleet.Seen,
    id=st.integers(0, 12).map("m-{}".format),
    deployment=st.just("m"),
    role=st.just("unified"),
    hosting=st.sampled_from([None, *fleet.Hosting]),
    registered=st.sampled_from([None, "starting", "ready", "draining"]),
    load=st.one_of(st.none(), st.integers(0, 5)),
    started_at_s=st.floats(0, 100),
)


@given(
    wanted=st.integers(0, 8),
    surge=st.integers(0, 3),
    workers=st.lists(SEEN, max_size=10, unique_by=lambda seen: seen.id),
    drains=st.sets(st.integers(0, 12).map("m-{}".format)),
)
def test_never_above_wanted_and_surge_and_never_below_wanted(
    wanted: int, surge: int, workers: list[fleet.Seen], drains: set[str]
) -> None:
    """Starts never lift what is hosted above wanted + surge; stops of live workers, unless chosen, leave the wanted number."""
    desired = fleet.Desired((fleet.PoolTarget("m", "unified", wanted),), frozenset(drains), surge)
    got = fleet.reconcile(desired, fleet.Observed(True, True, tuple(workers)), fleet.State(), 1.0)
    starts = [item for item in got.commands if isinstance(item, fleet.Start)]
    stops = {item.worker_id for item in got.commands if isinstance(item, fleet.Stop)}
    hosted = [seen for seen in workers if seen.hosting not in (None, fleet.Hosting.FAILED)]
    if starts:
        assert len(hosted) + len(starts) <= wanted + surge + sum(1 for s in workers if s.hosting is None and s.live)
        assert not {item.worker_id for item in starts} & {seen.id for seen in workers}
    live_after = [seen for seen in workers if seen.live and seen.id not in stops]
    surplus = [seen for seen in workers if seen.id in stops and seen.live and seen.id not in drains]
    if surplus:
        assert len(live_after) >= wanted
    assert len(stops) == sum(1 for item in got.commands if isinstance(item, fleet.Stop))

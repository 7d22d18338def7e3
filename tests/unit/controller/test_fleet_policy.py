"""Table tests of the fleet policy: what is wanted and seen in, commands out."""

from __future__ import annotations

import dataclasses

import pytest

from controller.policy import fleet
from controller.policy.fleet import Hosting

NOW_S = 1_000.0


def ready(name: str, **changes: object) -> fleet.Seen:
    """A worker that runs and is registered as ready."""
    return dataclasses.replace(
        fleet.Seen(name, "m", "unified", Hosting.RUNNING, "ready", load=0, started_at_s=1.0), **changes
    )


def decide(
    wanted: int,
    *workers: fleet.Seen,
    drains: tuple[str, ...] = (),
    state: fleet.State | None = None,
    hosted: bool = True,
    registry: bool = True,
    now_s: float = NOW_S,
    surge: int = 1,
) -> fleet.Decision:
    """One decision on a deployment `m` with one pool."""
    desired = fleet.Desired((fleet.PoolTarget("m", "unified", wanted),), frozenset(drains), surge)
    return fleet.reconcile(desired, fleet.Observed(hosted, registry, workers), state or fleet.State(), now_s)


def words(decision: fleet.Decision) -> list[str]:
    """Commands as `start m-0`, `stop m-1`."""
    return [f"{type(item).__name__.lower()} {item.worker_id}" for item in decision.commands]


@pytest.mark.parametrize(
    ("wanted", "workers", "drains", "expected"),
    [
        pytest.param(2, [], (), ["start m-0", "start m-1"], id="missing"),
        pytest.param(2, [ready("m-0"), ready("m-1")], (), [], id="as wanted"),
        pytest.param(2, [ready("m-0"), ready("m-4", hosting=Hosting.STARTING, registered=None)], (), [], id="starting counts"),
        pytest.param(3, [ready("m-0"), ready("m-4")], (), ["start m-5"], id="ids are not used twice"),
        pytest.param(1, [ready("m-0", hosting=None)], (), [], id="registered elsewhere counts"),
        pytest.param(
            1, [ready("m-0", load=3), ready("m-1", load=0), ready("m-2", load=None)], (), ["stop m-1", "stop m-0"],
            id="idlest goes first, unknown load counts as busy",
        ),
        pytest.param(
            1, [ready("m-0"), ready("m-1", started_at_s=9.0)], (), ["stop m-1"], id="of equals the newest goes"
        ),
        pytest.param(1, [ready("m-0"), ready("m-1", registered="starting", load=None)], (), ["stop m-1"], id="not ready goes first"),
        pytest.param(2, [ready("m-0"), ready("m-1"), ready("m-2")], ("m-0",), ["stop m-0"], id="the chosen one goes"),
        pytest.param(
            2, [ready("m-0"), ready("m-1")], ("m-0",), ["stop m-0", "start m-2"], id="drain and replace within the surge"
        ),
        pytest.param(2, [ready("m-0"), ready("m-1", registered="draining")], (), ["start m-2"], id="draining does not count"),
        pytest.param(
            2, [ready("m-0", registered="draining"), ready("m-1", hosting=Hosting.STOPPING)], (), ["start m-2"],
            id="never above wanted and surge",
        ),
        pytest.param(0, [ready("m-0")], (), ["stop m-0"], id="to zero"),
        pytest.param(0, [ready("m-0", registered="draining")], ("m-0",), [], id="a drain is asked for once"),
        pytest.param(1, [ready("m-0", hosting=Hosting.FAILED, registered=None)], (), ["stop m-0"], id="failed is removed, backoff"),
        pytest.param(1, [ready("m-0"), ready("x-0", deployment="x")], (), ["stop x-0"], id="a pool that is not wanted"),
    ],
)  # fmt: skip
def test_table(wanted: int, workers: list[fleet.Seen], drains: tuple[str, ...], expected: list[str]) -> None:
    """Objects in, commands out."""
    assert words(decide(wanted, *workers, drains=drains)) == expected


@pytest.mark.parametrize(("hosted", "registry"), [(False, True), (True, False)])
def test_holds_without_a_view(hosted: bool, registry: bool) -> None:
    """A host or registry that cannot be asked is not an empty one: nothing happens, nothing is forgotten."""
    state = fleet.State(next_index={"m": 7})
    got = decide(2, hosted=hosted, registry=registry, state=state)
    assert got.hold and got.commands == () and got.state is state and "cannot be asked" in got.reason


def test_crash_loop_backs_off_and_recovers() -> None:
    """The wait doubles with each failure up to a minute, and is forgotten after a while of being complete."""
    state, now_s, waits = fleet.State(), NOW_S, []
    for _ in range(9):
        got = decide(1, ready("m-0", hosting=Hosting.FAILED, registered=None), state=state, now_s=now_s)
        state = got.state
        waits.append(state.pools["m/unified"].not_before_s - now_s)
        assert words(decide(1, state=state, now_s=now_s)) == []
        now_s = state.pools["m/unified"].not_before_s
        again = decide(1, state=state, now_s=now_s)
        assert len(again.commands) == 1
        state = again.state
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    state = decide(1, ready("m-0"), state=state, now_s=now_s).state
    assert state.pools["m/unified"].failures == 9
    state = decide(1, ready("m-0"), state=state, now_s=now_s + 31).state
    assert state.pools["m/unified"].failures == 0


def test_running_without_registration_is_replaced_in_time() -> None:
    """A worker that runs and never registers is given a minute, then stopped."""
    stuck = ready("m-0", registered=None)
    first = decide(1, stuck)
    assert first.commands == ()
    assert decide(1, stuck, state=first.state, now_s=NOW_S + 59).commands == ()
    assert words(decide(1, stuck, state=first.state, now_s=NOW_S + 60)) == ["stop m-0"]
    back = decide(1, ready("m-0"), state=first.state, now_s=NOW_S + 30)
    assert back.state.unregistered_since_s == {}


def test_repeated_decisions_settle() -> None:
    """Doing what is said and looking again asks for nothing more."""
    got = decide(3)
    workers = [ready(item.worker_id) for item in got.commands]
    assert decide(3, *workers, state=got.state).commands == ()

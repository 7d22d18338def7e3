"""Which worker Pods are created, drained and deleted: objects in, commands out."""

from __future__ import annotations

import dataclasses

import pytest

from operators.policy import workers
from operators.policy.workers import Create, Delete, Drain, Observed, Phase, Pool, Worker
from penstock.api.crds import modeldeployment
from penstock.api.types import WorkerState

NOW_S = 1_000.0


def serving(name: str, role: str = "unified", **changes: object) -> Worker:
    """A worker that takes requests."""
    worker = Worker(name, role, Phase.RUNNING, created_s=0.0, ready=True, registered=WorkerState.READY)
    return dataclasses.replace(worker, **changes)  # type: ignore[arg-type]  # the tests name fields of Worker


def pending(name: str, **changes: object) -> Worker:
    """A worker whose Pod has not started."""
    return serving(name, phase=Phase.PENDING, ready=False, registered=None, **changes)


def leaving(name: str, since_s: float = NOW_S - 10, **changes: object) -> Worker:
    """A worker that drains."""
    return serving(name, **{"draining_since_s": since_s, "registered": WorkerState.DRAINING, **changes})


def wanted(**roles: int) -> workers.Desired:
    """So many workers of each role; a drain takes at most a minute."""
    return workers.Desired("m", tuple(Pool(role, count) for role, count in roles.items()), 60.0)


CASES = {
    "nothing there": (wanted(unified=2), (), [Create("m-0", "unified"), Create("m-1", "unified")]),
    "as wanted": (wanted(unified=1), (serving("m-0"),), []),
    "a gap is filled with the free name": (
        wanted(unified=3),
        (serving("m-0"), serving("m-2")),
        [Create("m-1", "unified")],
    ),
    "a name is not free while its Pod goes": (
        wanted(unified=1),
        (serving("m-0", deleting=True),),
        [Create("m-1", "unified")],
    ),
    "one that starts counts": (wanted(unified=1), (pending("m-0"),), []),
    "roles have counts of their own": (
        wanted(prefill=1, decode=2),
        (serving("m-decode-0", "decode"),),
        [Create("m-decode-1", "decode"), Create("m-prefill-0", "prefill")],
    ),
    "too many: the newest is drained": (
        wanted(unified=1),
        (serving("m-0", created_s=5.0), serving("m-1", created_s=9.0)),
        [Drain("m-1", "2 workers of role unified, 1 wanted")],
    ),
    "too many: one that is not ready goes first": (
        wanted(unified=1),
        (serving("m-0", ready=False, registered=WorkerState.STARTING), serving("m-1", created_s=9.0)),
        [Drain("m-0", "2 workers of role unified, 1 wanted")],
    ),
    "too many: one that never started has nothing to drain": (
        wanted(unified=1),
        (serving("m-0"), pending("m-1")),
        [Delete("m-1", "2 workers of role unified, 1 wanted")],
    ),
    "too many: of the same age the highest number goes": (
        wanted(unified=2),
        (serving("m-2"), serving("m-10"), serving("m-9")),
        [Drain("m-10", "3 workers of role unified, 2 wanted")],
    ),
    "to zero": (wanted(unified=0), (serving("m-0"),), [Drain("m-0", "1 workers of role unified, 0 wanted")]),
    "a role that is not wanted any more": (
        wanted(unified=1),
        (serving("m-0"), serving("m-decode-0", "decode")),
        [Drain("m-decode-0", "1 workers of role decode, 0 wanted")],
    ),
    "a drain is waited for": (wanted(unified=1), (serving("m-0"), leaving("m-1")), []),
    "a drain does not count as a worker": (wanted(unified=1), (leaving("m-0"),), [Create("m-1", "unified")]),
    "a drain that the registry did not hear is told again": (
        wanted(unified=0),
        (leaving("m-0", registered=WorkerState.READY),),
        [Drain("m-0", "told again")],
    ),
    "drained: it left the registry": (
        wanted(unified=0),
        (leaving("m-0", registered=None),),
        [Delete("m-0", "drained")],
    ),
    "drained: its process has ended": (
        wanted(unified=0),
        (leaving("m-0", registered=None, phase=Phase.SUCCEEDED),),
        [Delete("m-0", "it has ended")],
    ),
    "the deadline of a drain": (
        wanted(unified=0),
        (leaving("m-0", since_s=NOW_S - 60),),
        [Delete("m-0", "not drained in 60 s")],
    ),
    "failed: replaced": (
        wanted(unified=1),
        (serving("m-0", phase=Phase.FAILED),),
        [Delete("m-0", "it has failed"), Create("m-1", "unified")],
    ),
    "failed: its reason is told": (
        wanted(unified=0),
        (serving("m-0", phase=Phase.FAILED, problem="OutOfcpu: no room -> wait"),),
        [Delete("m-0", "it has failed: OutOfcpu: no room -> wait")],
    ),
    "failed at once: neither deleted nor replaced yet": (
        wanted(unified=2),
        (serving("m-0", phase=Phase.FAILED, created_s=NOW_S - 14),),
        [Create("m-1", "unified")],
    ),
    "its engine has ended by itself: replaced": (
        wanted(unified=1),
        (serving("m-0", engine_ended=True, created_s=NOW_S - 60),),
        [Delete("m-0", "its engine has ended"), Create("m-1", "unified")],
    ),
    "its engine has ended at once: not yet": (
        wanted(unified=1),
        (serving("m-0", engine_ended=True, created_s=NOW_S - 59),),
        [],
    ),
    "its engine has ended, and it is one too many: once": (
        wanted(unified=0),
        (serving("m-0", engine_ended=True, created_s=NOW_S - 60),),
        [Delete("m-0", "its engine has ended")],
    ),
    "drained by somebody else: its engine holds its place until it has gone": (
        wanted(unified=2),
        (serving("m-0"), serving("m-1", ready=False, registered=None, ended=True)),
        [Delete("m-1", "it has drained"), Create("m-2", "unified")],
    ),
    "what is being deleted is not deleted again": (
        wanted(unified=0),
        (leaving("m-0", deleting=True), serving("m-1", phase=Phase.FAILED, deleting=True)),
        [],
    ),
}


@pytest.mark.parametrize(("desired", "seen", "commands"), CASES.values(), ids=CASES.keys())
def test_commands(desired: workers.Desired, seen: tuple[Worker, ...], commands: list[workers.Command]) -> None:
    """What is wanted and what is there give these commands."""
    assert list(workers.reconcile(desired, Observed(seen), NOW_S).commands) == commands


def test_without_the_registry_nothing_that_serves_is_stopped() -> None:
    """While the registry cannot be asked, workers are created, but none is drained or taken for drained."""
    seen = (serving("m-0"), serving("m-1"), leaving("m-2", registered=None), pending("m-3"))
    plan = workers.reconcile(wanted(unified=1, decode=1), Observed(seen, registry=False), NOW_S)
    assert plan.commands == (Create("m-decode-0", "decode"),)
    assert plan.held == "2 workers stay until the registry can be asked"


def test_the_deadline_of_a_drain_needs_no_registry() -> None:
    """A drain that is late ends, also while the registry cannot be asked."""
    plan = workers.reconcile(wanted(unified=0), Observed((leaving("m-0", since_s=0.0),), registry=False), NOW_S)
    assert plan.commands == (Delete("m-0", "not drained in 60 s"),)


def test_repeating_a_plan_that_was_carried_out_does_nothing() -> None:
    """With the Pods of the first plan there, the second is empty: nothing is made twice."""
    desired, first = wanted(unified=3), workers.reconcile(wanted(unified=3), Observed(), NOW_S)
    made = tuple(pending(each.worker) for each in first.commands)
    assert workers.reconcile(desired, Observed(made), NOW_S).commands == ()


def test_replicas_multiply_the_roles() -> None:
    """The deployment's replicas say how many times its roles are there."""
    deployment = modeldeployment.ModelDeployment.written(
        {
            "metadata": {"name": "m"},
            "spec": {
                "model": {"name": "m"},
                "engine": {"kind": "sim"},
                "replicas": 2,
                "roles": [{"name": "prefill", "replicas": 3}, {"name": "decode"}],
                "drain": {"timeout": "1m30s"},
            },
        }
    )
    assert workers.Desired.of(deployment) == workers.Desired("m", (Pool("prefill", 6), Pool("decode", 2)), 90.0)

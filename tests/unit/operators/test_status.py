"""What the status of a model deployment says."""

from __future__ import annotations

import dataclasses
from typing import Any

from operators.policy import rollout, status, workers
from operators.policy.workers import Observed, Phase, Worker
from penstock.api.crds import modeldeployment

NOW_S = 1_800_000_000.0


def deployment(before: Any = None, **spec: Any) -> modeldeployment.ModelDeployment:
    """A deployment of one prefill and two decode workers, twice."""
    return modeldeployment.ModelDeployment.written(
        {
            "metadata": {"name": "m", "generation": 4},
            "spec": {
                "model": {"name": "m"},
                "engine": {"kind": "sim"},
                "replicas": 2,
                "roles": [{"name": "prefill"}, {"name": "decode", "replicas": 2}],
                **spec,
            },
            "status": before.model_dump(by_alias=True, exclude_none=True) if before else {},
        }
    )


def report(held: str = "") -> status.Report:
    """A pass that has nothing to tell but what is held back."""
    state = rollout.State("r1", "r1")
    return status.Report(held, rollout.Decision(workers.Rolling("r1"), state, rollout.Phase.COMPLETE, "done"))


def worker(role: str, index: int, *, ready: bool = True, problem: str = "") -> Worker:
    """One worker."""
    return Worker(f"m-{role}-{index}", role, Phase.RUNNING, 0.0, ready=ready, problem=problem)


def all_of(**ready: int) -> Observed:
    """So many ready workers of each role."""
    return Observed(tuple(worker(role, index) for role, count in ready.items() for index in range(count)))


def test_all_ready() -> None:
    """With every worker ready, Ready is True for this generation, and the replicas are whole."""
    found = status.of_deployment(deployment(), all_of(prefill=2, decode=4), report(), NOW_S)
    ready = found.conditions[0]
    assert (ready.type, ready.status, ready.reason, ready.observed_generation) == ("Ready", "True", "AllReady", 4)
    assert ready.last_transition_time == "2027-01-15T08:00:00Z"
    assert (found.replicas, found.ready_replicas, found.workers) == (2, 2, "6/6")
    assert found.selector == "penstock.dev/deployment=m"


def test_a_replica_counts_when_it_is_whole() -> None:
    """A set with one decode worker too few is no replica."""
    found = status.of_deployment(deployment(), all_of(prefill=2, decode=3), report(), NOW_S)
    assert (found.replicas, found.ready_replicas, found.workers) == (1, 1, "5/6")
    assert found.conditions[0].reason == "WorkersStarting"
    assert found.conditions[0].message == "3 of 4 decode workers are ready"


def test_what_blocks_workers_is_named() -> None:
    """The message gives each cause once."""
    seen = tuple(worker("decode", index, ready=False, problem="no node has 8 nvidia.com/gpu") for index in range(4))
    found = status.of_deployment(deployment(), Observed(seen), report(), NOW_S)
    assert found.conditions[0].reason == "WorkersBlocked"
    assert found.conditions[0].message.count("no node has 8 nvidia.com/gpu") == 1


def test_what_blocks_a_roll_out_is_named_while_the_old_workers_serve() -> None:
    """Ready stays True for the old workers; Progressing has the cause of the new ones, and only of these."""
    old = all_of(prefill=2, decode=4).workers
    new = dataclasses.replace(worker("decode", 9, ready=False, problem="ErrImagePull: not found"), revision="r2")
    state = rollout.State("r1", "r2")
    moving = rollout.Decision(workers.Rolling("r2"), state, rollout.Phase.PROGRESSING, "0 of 6")
    found = status.of_deployment(deployment(), Observed((*old, new)), status.Report("", moving), NOW_S)
    ready, progressing = found.conditions
    assert (ready.status, ready.reason) == ("True", "AllReady")
    assert (progressing.status, progressing.reason) == ("True", "RolloutBlocked")
    assert progressing.message == "0 of 6; ErrImagePull: not found"
    other = dataclasses.replace(new, revision="r1")
    found = status.of_deployment(deployment(), Observed((*old, other)), status.Report("", moving), NOW_S)
    assert found.conditions[1].reason == "RolloutProgressing"


def test_a_condition_keeps_its_time_until_its_value_changes() -> None:
    """Another reason leaves the transition time, another value moves it."""
    first = status.of_deployment(deployment(), all_of(), report(), NOW_S)
    second = status.of_deployment(deployment(first), all_of(prefill=1), report(), NOW_S + 60)
    assert second.conditions[0].message != first.conditions[0].message
    assert second.conditions[0].last_transition_time == first.conditions[0].last_transition_time
    third = status.of_deployment(deployment(second), all_of(prefill=2, decode=4), report(), NOW_S + 120)
    assert third.conditions[0].last_transition_time == "2027-01-15T08:02:00Z"


def test_what_is_held_back_shows() -> None:
    """A deployment that is ready but cannot be scaled in says so."""
    seen = all_of(prefill=2, decode=4)
    found = status.of_deployment(deployment(), seen, report("1 workers stay until the registry can be asked"), NOW_S)
    assert found.conditions[0].status == "True"
    assert "stay until the registry can be asked" in found.conditions[0].message


def test_kinds_that_nothing_acts_on_say_so() -> None:
    """An honest condition for what is checked only."""
    found = status.not_yet(modeldeployment.Status(), 3, report("PowerDomain"), NOW_S)
    assert (found.status, found.reason, found.observed_generation) == ("False", "NotYetImplemented", 3)
    assert "PowerDomain" in found.message


def test_no_role_wanted_is_ready() -> None:
    """Scaled to zero is what was asked for."""
    found = status.of_deployment(deployment(replicas=0), Observed(), report(), NOW_S)
    assert found.conditions[0].status == "True"
    assert found.workers == "0/0"
    assert workers.reconcile(workers.Desired.of(deployment(replicas=0)), Observed(), NOW_S).commands == ()


def test_fields_that_nothing_acts_on_are_named() -> None:
    """Once they are there, until they are not; a deployment without any has no such condition."""
    assert "ActedOn" not in {
        each.type for each in status.of_deployment(deployment(), Observed(()), report(), 0).conditions
    }
    spec = {"scaling": {"maxReplicas": 4}, "priority": 5, "kvCache": {"tier": "t"}}
    first = status.of_deployment(deployment(**spec), Observed(()), report(), NOW_S)
    found = {each.type: each for each in first.conditions}["ActedOn"]
    assert (found.status, found.reason) == ("False", "NotYetImplemented")
    assert found.message.startswith("spec.scaling, spec.priority, spec.kvCache.tier: ")
    after = status.of_deployment(deployment(first), Observed(()), report(), NOW_S)
    found = {each.type: each for each in after.conditions}["ActedOn"]
    assert (found.status, found.reason) == ("True", "AllFields")

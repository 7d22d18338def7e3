"""Which changes of a status are worth an event."""

from __future__ import annotations

from operators import events
from operators.policy import status
from penstock.api.crds import base, modeldeployment

NOW_S = 1_800_000_000.0
PULL = "worker m-0: ErrImagePull: no such host -> check the image's name"
BACK_OFF = "worker m-0: ImagePullBackOff: Back-off pulling image -> check the image's name"


def ready(reason: str, message: str) -> modeldeployment.Status:
    """A status with one condition."""
    good = reason == "AllReady"
    found = status.condition((), status.READY, good, reason, message, 1, NOW_S)
    return modeldeployment.Status(conditions=(found,), revision="r1")


def told(*after: modeldeployment.Status) -> list[list[str]]:
    """Notes of the events of each status, one after the other, by one operator."""
    conditions, before, found = events.Conditions(), modeldeployment.Status(revision="r1"), []
    for each in after:
        named = modeldeployment.ModelDeployment(
            metadata=base.ObjectMeta(name="m", namespace="n"),
            spec=modeldeployment.Spec.model_validate({"model": {"name": "m"}, "engine": {"kind": "sim"}}),
            status=before,
        )
        found.append([one["note"] for one in conditions.changed(named, each, NOW_S)])
        before = each
    return found


def test_another_cause_under_the_same_reason_is_told() -> None:
    """An image that is there now, on nodes that are full: the reason is the same, what to do is not."""
    full = "worker m-0: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu. -> add nodes"
    assert told(ready("WorkersBlocked", PULL), ready("WorkersBlocked", full)) == [[PULL], [full]]


def test_numbers_and_names_with_numbers_are_no_other_cause() -> None:
    """Another worker with the same trouble says nothing new; of what is well only the reason counts."""
    other = PULL.replace("m-0", "m-17")
    assert told(ready("WorkersBlocked", PULL), ready("WorkersBlocked", other)) == [[PULL], []]
    starting = ready("WorkersStarting", "decode: starting"), ready("WorkersStarting", "prefill: starting")
    assert told(*starting) == [["decode: starting"], []]


def test_causes_that_come_by_turns_are_told_once_each() -> None:
    """As a kubelet that tries to pull, and waits; after the workers were well it is told again."""
    turns = [ready("WorkersBlocked", each) for each in (PULL, BACK_OFF, PULL, BACK_OFF)]
    assert told(*turns) == [[PULL], [BACK_OFF], [], []]
    again = told(turns[0], ready("AllReady", "2 of 2 ready"), turns[0])
    assert again == [[PULL], ["2 of 2 ready"], [PULL]]

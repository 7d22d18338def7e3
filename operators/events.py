"""Events on an object: what was done to it, and what it has become. Pure."""

from __future__ import annotations

import datetime
import socket
from typing import Any, Literal

from operators.policy import status, workers
from penstock.api.crds import base, modeldeployment

Object = dict[str, Any]
CONTROLLER = "penstock.dev/operator"
_NOTE_MAX = 1024


def event(
    meta: base.ObjectMeta,
    kind: Literal["Normal", "Warning"],
    reason: str,
    action: str,
    note: str,
    now_s: float,
) -> Object:
    """One event about a ModelDeployment; the server gives it its name."""
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": f"{meta.name}-", "namespace": meta.namespace},
        "eventTime": datetime.datetime.fromtimestamp(now_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": kind,
        "reason": reason,
        "action": action,
        "note": note[:_NOTE_MAX],
        "reportingController": CONTROLLER,
        "reportingInstance": socket.gethostname(),
        "regarding": {
            "apiVersion": base.API_VERSION,
            "kind": "ModelDeployment",
            "name": meta.name,
            "namespace": meta.namespace,
            "uid": meta.uid,
        },
    }


def of_command(about: modeldeployment.ModelDeployment, command: workers.Command, now_s: float) -> Object:
    """What was done to a worker."""
    match command:
        case workers.Create():
            return event(about.metadata, "Normal", "WorkerCreated", "Create", f"worker {command.worker}", now_s)
        case workers.Drain():
            note = f"worker {command.worker}: {command.reason}"
            return event(about.metadata, "Normal", "WorkerDraining", "Drain", note, now_s)
        case workers.Delete():
            note = f"worker {command.worker}: {command.reason}"
            return event(about.metadata, "Normal", "WorkerDeleted", "Delete", note, now_s)


def of_status(before: modeldeployment.ModelDeployment, after: modeldeployment.Status, now_s: float) -> list[Object]:
    """What the object has become: one for each condition whose value or reason has changed, or whose cause has.

    A warning's message that differs in more than numbers, and names with numbers, tells of another cause.
    """
    known = {(each.type, each.status, each.reason): _cause(each.message) for each in before.status.conditions}
    found = []
    for each in after.conditions:
        # A first roll-out is told by its workers.
        first = each.type == status.PROGRESSING and not before.status.revision
        kind: Literal["Normal", "Warning"] = "Normal" if each.reason in _NORMAL else "Warning"
        told = known.get((each.type, each.status, each.reason))
        if first or (told is not None and (kind == "Normal" or told == _cause(each.message))):
            continue
        found.append(event(before.metadata, kind, each.reason, "Observe", each.message, now_s))
    return found


def _cause(message: str) -> tuple[str, ...]:
    return tuple(word for word in message.split() if not any(map(str.isdigit, word)))


_NORMAL = frozenset(
    {
        "AllReady",
        "WorkersStarting",
        "RolloutComplete",
        "RolloutProgressing",
        "RolloutCanary",
        "RolloutPaused",
        "RouteAccepted",
        "RouteWaiting",
        "ImagesCurrent",
        "AllKept",
        "AllFields",
    }
)

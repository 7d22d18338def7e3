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


class Conditions:
    """Tells what objects have become by their conditions, and remembers what it has told of each as it is now.

    A warning is told anew where its cause is another: where its message differs in more than numbers, and names with numbers.
    Causes that come by turns, as kubelets give two reasons of one image that cannot be pulled, are told once each.
    """

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], dict[str, set[tuple[str, ...]]]] = {}

    def changed(
        self, before: modeldeployment.ModelDeployment, after: modeldeployment.Status, now_s: float
    ) -> list[Object]:
        """One event for each condition whose value, reason or cause is new."""
        meta = before.metadata
        known = {each.type: each for each in before.status.conditions}
        told = self._told.setdefault((meta.namespace, meta.name), {})
        found = []
        for each in after.conditions:
            cause, last = _cause(each.message), known.get(each.type)
            same = last is not None and (last.status, last.reason) == (each.status, each.reason)
            causes = told.setdefault(each.type, set())
            if not same:
                causes.clear()
            elif last is not None:
                causes.add(_cause(last.message))
            kind: Literal["Normal", "Warning"] = "Normal" if each.reason in _NORMAL else "Warning"
            new = not same or (kind == "Warning" and cause not in causes)
            causes.add(cause)
            # A first roll-out is told by its workers.
            if new and not (each.type == status.PROGRESSING and not before.status.revision):
                found.append(event(meta, kind, each.reason, "Observe", each.message, now_s))
        return found

    def forget(self, namespace: str, name: str) -> None:
        """Of an object that is gone."""
        self._told.pop((namespace, name), None)


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

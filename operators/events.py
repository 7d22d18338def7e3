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
    about: modeldeployment.ModelDeployment,
    kind: Literal["Normal", "Warning"],
    reason: str,
    action: str,
    note: str,
    now_s: float,
) -> Object:
    """One event; the server gives it its name."""
    meta = about.metadata
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
            return event(about, "Normal", "WorkerCreated", "Create", f"worker {command.worker}", now_s)
        case workers.Drain():
            note = f"worker {command.worker}: {command.reason}"
            return event(about, "Normal", "WorkerDraining", "Drain", note, now_s)
        case workers.Delete():
            note = f"worker {command.worker}: {command.reason}"
            return event(about, "Normal", "WorkerDeleted", "Delete", note, now_s)


def of_status(before: modeldeployment.ModelDeployment, after: modeldeployment.Status, now_s: float) -> Object | None:
    """What the object has become; None where neither the value nor the reason of Ready has changed."""
    found = {each.type: each for each in after.conditions}[status.READY]
    same = any(
        (each.type, each.status, each.reason) == (found.type, found.status, found.reason)
        for each in before.status.conditions
    )
    if same:
        return None
    kind: Literal["Normal", "Warning"] = "Normal" if found.reason in ("AllReady", "WorkersStarting") else "Warning"
    return event(before, kind, found.reason, "Observe", found.message, now_s)

"""What was seen of a cluster. None is what could not be seen, which is neither there nor missing."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]


class Level(enum.StrEnum):
    """How bad a finding is: an error keeps something from being served."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One result of a check, and the command that mends it."""

    check: str
    level: Level
    message: str
    mend: str = ""


@dataclasses.dataclass(frozen=True)
class Right:
    """Something that the operator does, and whether it may."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    allowed: bool | None = None

    @property
    def shown(self) -> str:
        """As `kubectl auth can-i` takes it."""
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


@dataclasses.dataclass(frozen=True)
class Gateway:
    """One gateway's own words."""

    pod: str
    reached: bool
    degraded: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sight:
    """Everything that the checks look at."""

    namespace: str
    now_s: float
    """By the API server's clock, where that tells."""
    # As (1, 33).
    version: tuple[int, int] | None = None
    definitions: Mapping[str, Object | None] | None = None
    wanted_definitions: Mapping[str, Object] = dataclasses.field(default_factory=dict)
    # Names of all other definitions of the cluster.
    other_definitions: frozenset[str] | None = None
    # Deployments of KubeRay's operator, in every namespace.
    kuberay: Sequence[Object] | None = None
    rights: Sequence[Right] = ()
    nodes: Sequence[Object] | None = None
    profiles: Sequence[Object] | None = None
    models: Sequence[Object] | None = None
    # Pods of models, in every namespace.
    workers: Sequence[Object] | None = None
    storage_classes: Sequence[Object] | None = None
    metrics_api: bool | None = None
    autoscalers: Sequence[Object] | None = None
    workloads: Sequence[Object] | None = None
    pods: Sequence[Object] | None = None
    # Deployments of releases in other namespaces.
    elsewhere: Sequence[Object] | None = None
    claims: Sequence[Object] | None = None
    leases: Sequence[Object] | None = None
    secrets: frozenset[str] | None = None
    # Of them, those with the chart's label: what Helm was told to keep is still there after an uninstall.
    kept_secrets: frozenset[str] = frozenset()
    gateways: Sequence[Gateway] = ()


def component(found: Object) -> str:
    """Which of the chart's components an object belongs to."""
    return str(found["metadata"].get("labels", {}).get("app.kubernetes.io/component", ""))


def name(found: Object) -> str:
    """Name of an object."""
    return str(found["metadata"]["name"])

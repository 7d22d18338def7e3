"""Which worker Pods of a model deployment to create, to drain and to delete.

Level-based: looks at what is wanted and what is there, whatever happened before. A worker that serves is drained before it
is deleted: it is told so in the registry, and its Pod goes when the worker has ended or the deadline has passed. Names
are the least free ones, so a creation whose answer was lost cannot make a second worker: its name is taken.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Sequence

from penstock.api import types
from penstock.api.crds import modeldeployment, values


class Phase(enum.StrEnum):
    """What Kubernetes says of a worker's Pod."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Worker:
    """One worker: its Pod, and its state in the registry (None where it is not registered)."""

    name: str
    role: str
    phase: Phase
    created_s: float
    ready: bool = False
    deleting: bool = False
    # When its drain began, None where it was not asked to.
    draining_since_s: float | None = None
    registered: types.WorkerState | None = None
    # What keeps it from running, as Kubernetes says it.
    problem: str = ""

    @property
    def live(self) -> bool:
        """Whether it counts for its role."""
        return self.phase in (Phase.PENDING, Phase.RUNNING) and not self.deleting and self.draining_since_s is None


@dataclasses.dataclass(frozen=True)
class Pool:
    """A role and how many workers it is to have."""

    role: str
    wanted: int


@dataclasses.dataclass(frozen=True)
class Desired:
    """What is wanted."""

    name: str
    pools: tuple[Pool, ...]
    drain_timeout_s: float

    @classmethod
    def of(cls, deployment: modeldeployment.ModelDeployment) -> Desired:
        """What a ModelDeployment asks for."""
        spec = deployment.spec
        pools = tuple(Pool(role.name, role.replicas * spec.replicas) for role in spec.roles)
        return cls(deployment.metadata.name, pools, values.duration_s(spec.drain.timeout))


@dataclasses.dataclass(frozen=True)
class Observed:
    """What is there. `registry` is False where it cannot be asked: then nothing that serves is stopped."""

    workers: tuple[Worker, ...] = ()
    registry: bool = True


@dataclasses.dataclass(frozen=True)
class Create:
    """Create the Pod of a worker."""

    worker: str
    role: str


@dataclasses.dataclass(frozen=True)
class Drain:
    """Note on the Pod that the worker is to go, and tell the worker in the registry."""

    worker: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Delete:
    """Delete the Pod, if it is still the one that was seen."""

    worker: str
    reason: str


Command = Create | Drain | Delete


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to do, and what is held back and why."""

    commands: tuple[Command, ...]
    held: str = ""


def reconcile(desired: Desired, observed: Observed, now_s: float) -> Plan:
    """Creates what is missing, drains what is too many, deletes what has ended or was drained."""
    commands: list[Command] = []
    wanted = {pool.role: pool.wanted for pool in desired.pools}
    held = 0
    for role in sorted({*wanted, *(worker.role for worker in observed.workers)}):
        members = [worker for worker in observed.workers if worker.role == role]
        commands += _ended(members)
        commands += _drained(members, observed.registry, desired.drain_timeout_s, now_s)
        live = [worker for worker in members if worker.live]
        missing = wanted.get(role, 0) - len(live)
        names = _free_names(desired.name, role, observed.workers)
        commands += [Create(next(names), role) for _ in range(missing)]
        for worker in _least_loss(live)[: max(0, -missing)]:
            reason = f"{len(live)} workers of role {role}, {wanted.get(role, 0)} wanted"
            if worker.phase is Phase.PENDING and worker.registered is None and observed.registry:
                commands.append(Delete(worker.name, reason))
            elif observed.registry:
                commands.append(Drain(worker.name, reason))
            else:
                held += 1
    return Plan(tuple(commands), f"{held} workers stay until the registry can be asked" if held else "")


def _ended(members: Sequence[Worker]) -> list[Command]:
    """Pods whose worker is gone: after a drain, or by an eviction."""
    found: list[Command] = []
    for worker in members:
        if not worker.deleting and worker.phase in (Phase.SUCCEEDED, Phase.FAILED):
            found.append(Delete(worker.name, "it has ended" if worker.phase is Phase.SUCCEEDED else "it has failed"))
    return found


def _drained(members: Sequence[Worker], registry: bool, timeout_s: float, now_s: float) -> list[Command]:
    """Drains that have ended, are late, or have to be said again."""
    found: list[Command] = []
    for worker in members:
        running = worker.phase in (Phase.PENDING, Phase.RUNNING)
        if worker.draining_since_s is None or worker.deleting or not running:
            continue
        if now_s - worker.draining_since_s >= timeout_s:
            found.append(Delete(worker.name, f"not drained in {timeout_s:g} s"))
        elif registry and worker.registered is None:
            found.append(Delete(worker.name, "drained"))
        elif registry and worker.registered is not types.WorkerState.DRAINING:
            found.append(Drain(worker.name, "told again"))
    return found


def _least_loss(live: Sequence[Worker]) -> list[Worker]:
    """Those that lose least first: not ready, then the newest, then the highest name (Kubernetes' times are seconds)."""
    return sorted(live, key=lambda worker: (worker.ready, -worker.created_s, -len(worker.name), _reversed(worker.name)))


def _reversed(name: str) -> list[int]:
    return [-ord(letter) for letter in name]


def _free_names(deployment: str, role: str, workers: Sequence[Worker]) -> Iterator[str]:
    """Names that no Pod has, the least first."""
    taken = {worker.name for worker in workers}
    base = deployment if role == types.ROLE_UNIFIED else f"{deployment}-{role}"
    index = 0
    while True:
        name = f"{base}-{index}"
        if name not in taken:
            yield name
        index += 1

"""Which workers of a model deployment to create, to drain and to delete.

Level-based: looks at what is wanted and what is there, whatever happened before. A worker that serves is drained before it
is deleted: it is told so in the registry, and it goes when it has ended or the deadline has passed. Names are the least
free ones, so a creation whose answer was lost cannot make a second worker: its name is taken. Whatever drains or ends still
holds its accelerators, so it counts against what may be created: never more than wanted and surge together.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator, Mapping, Sequence

from penstock.api import types
from penstock.api.crds import modeldeployment, values

# A Pod that should have ended for so long is on a node that does not answer: its accelerators are not waited for.
OVERDUE_S = 60.0
# An engine that ends by itself is replaced when its Pod is so old: one that always does is no work for the API server.
ENGINE_END_S = 60.0
# The same for a Pod that has failed, as where a kubelet refuses it at once.
FAILURE_S = 15.0


class Phase(enum.StrEnum):
    """What Kubernetes says of a worker's Pod."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Worker:
    """One worker: its Pod (or the unit of its ranks), and its state in the registry (None where it is not registered)."""

    name: str
    role: str
    phase: Phase
    created_s: float
    ready: bool = False
    deleting: bool = False
    # When its drain began, None where it was not asked to.
    draining_since_s: float | None = None
    registered: types.WorkerState | None = None
    # What keeps it from running: its cause and the next step.
    problem: str = ""
    revision: str = ""
    accelerator: str = ""
    # When a Pod that is being deleted is gone at the latest.
    gone_by_s: float | None = None
    # Since when no node takes it.
    unschedulable_since_s: float | None = None
    # Since when an engine that had started does not answer its probe.
    unready_since_s: float | None = None
    restarts: int = 0
    # Whether the problem is of the worker itself (image, configuration, crash) and not of the cluster's room.
    faulty: bool = False
    # A unit of several nodes of which one has gone.
    broken: bool = False
    # Its agent has drained it and ended, whoever asked for that; the engine still holds its accelerators.
    ended: bool = False
    # Its engine has ended with 0, which a kubelet does not start again.
    engine_ended: bool = False

    @property
    def live(self) -> bool:
        """Whether it counts for its role."""
        running = self.phase in (Phase.PENDING, Phase.RUNNING)
        gone = self.deleting or self.broken or self.ended
        return running and not gone and self.draining_since_s is None

    def holds(self, now_s: float) -> bool:
        """Whether its accelerators are taken, or may be."""
        if self.phase not in (Phase.PENDING, Phase.RUNNING):
            return False
        return self.gone_by_s is None or now_s < self.gone_by_s + OVERDUE_S


@dataclasses.dataclass(frozen=True)
class Pool:
    """A role, how many workers it is to have, and by how many it may be over or under that while they are replaced."""

    role: str
    wanted: int
    surge: int = 1
    unavailable: int = 0


@dataclasses.dataclass(frozen=True)
class Rolling:
    """Which revision workers are to have. Below a `share` of 1 the others keep, or get, revision `other`."""

    target: str = ""
    other: str = ""
    share: float = 1.0
    # Nothing is replaced: paused, or stopped by a failure.
    held: bool = False


@dataclasses.dataclass(frozen=True)
class Desired:
    """What is wanted."""

    name: str
    pools: tuple[Pool, ...]
    drain_timeout_s: float

    @classmethod
    def of(cls, deployment: modeldeployment.ModelDeployment) -> Desired:
        """What a ModelDeployment asks for."""
        spec, rollout = deployment.spec, deployment.spec.rollout
        pools = []
        for role in spec.roles:
            wanted = role.replicas * spec.replicas
            surge = of_percent(rollout.max_surge, wanted, up=True) if rollout.strategy == "Surge" else 0
            away = of_percent(rollout.max_unavailable, wanted, up=False)
            # Both rounded to nothing would stop every roll-out.
            pools.append(Pool(role.name, wanted, surge, away if surge or away else 1))
        return cls(deployment.metadata.name, tuple(pools), values.duration_s(spec.drain.timeout))


def of_percent(value: int | str, total: int, *, up: bool) -> int:
    """The number that an integer or a percentage of `total` comes to."""
    if isinstance(value, int):
        return value
    share = int(value.removesuffix("%")) * total / 100
    return math.ceil(share) if up else math.floor(share)


@dataclasses.dataclass(frozen=True)
class Observed:
    """What is there. `registry` is False where it cannot be asked: then nothing that serves is stopped."""

    workers: tuple[Worker, ...] = ()
    registry: bool = True


@dataclasses.dataclass(frozen=True)
class Create:
    """Create a worker."""

    worker: str
    role: str
    revision: str = ""
    accelerator: str = ""


@dataclasses.dataclass(frozen=True)
class Drain:
    """Note on the Pod that the worker is to go, and tell the worker in the registry."""

    worker: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Delete:
    """Delete the worker, if it is still the one that was seen."""

    worker: str
    reason: str


Command = Create | Drain | Delete


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to do, what is held back and why, and when to look again for a deadline's sake."""

    commands: tuple[Command, ...]
    held: str = ""
    again_s: float | None = None
    # Workers that are taken away for others of another revision, with their role: not where these cannot be made.
    replaced: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def destructive(self) -> bool:
        """Whether it takes something away: then it has to be made again on a fresh sight."""
        return any(not isinstance(each, Create) for each in self.commands)


# Of a role in one pass: then it is looked again at what is wanted.
_MOST_CREATES = 200


def reconcile(
    desired: Desired,
    observed: Observed,
    now_s: float,
    rolling: Rolling = Rolling(),
    accelerators: Mapping[str, str] | None = None,
) -> Plan:
    """Creates what is missing, replaces what is of another revision, drains what is too many, deletes what has ended."""
    commands: list[Command] = []
    pools = {pool.role: pool for pool in desired.pools}
    held = waiting = 0
    replaced: dict[str, str] = {}
    for role in sorted({*pools, *(worker.role for worker in observed.workers)}):
        pool = pools.get(role, Pool(role, 0))
        members = [_aged(worker, now_s) for worker in observed.workers if worker.role == role]
        commands += _ended(members, now_s)
        commands += _drained(members, observed.registry, desired.drain_timeout_s, now_s)
        revisions = _missing(pool, members, rolling)
        for worker in members:
            if revisions and _is_failing(worker, now_s):
                revisions.remove(worker.revision if worker.revision in revisions else revisions[-1])
        room = max(0, pool.wanted + pool.surge - sum(worker.holds(now_s) for worker in members))
        waiting += max(0, len(revisions) - room)
        names = _free_names(desired.name, role, observed.workers)
        chosen = (accelerators or {}).get(role, "")
        commands += [Create(next(names), role, revision, chosen) for revision in revisions[: min(room, _MOST_CREATES)]]
        too_many, outdated = _surplus(pool, members, rolling)
        replaced |= {worker.name: role for worker, _ in outdated}
        for worker, reason in (*too_many, *outdated):
            if worker.phase is Phase.PENDING and worker.registered is None and observed.registry:
                commands.append(Delete(worker.name, reason))
            elif observed.registry:
                commands.append(Drain(worker.name, reason))
            else:
                held += 1
    said = [f"{held} workers stay until the registry can be asked"] if held else []
    said += [f"{waiting} workers wait for the accelerators of those that end"] if waiting else []
    return Plan(tuple(commands), "; ".join(said), _again_s(desired, observed, now_s), replaced)


def limit(pool: Pool, rolling: Rolling) -> int:
    """How many workers of a role may have the target's revision now."""
    return pool.wanted if rolling.share >= 1 else min(pool.wanted, math.ceil(rolling.share * pool.wanted))


def _missing(pool: Pool, members: Sequence[Worker], rolling: Rolling) -> list[str]:
    """Revisions of the workers to create, before what there is room for."""
    live = [worker for worker in members if worker.live]
    new = sum(worker.revision == rolling.target for worker in live)
    most = new if rolling.held and rolling.other else limit(pool, rolling)
    found = []
    for _ in range(pool.wanted - len(live)):
        takes = new < most or not rolling.other
        found.append(rolling.target if takes else rolling.other)
        new += takes
    if new < most and not rolling.held:
        # Beyond the wanted number for as long as others are replaced.
        found += [rolling.target] * min(most - new, pool.wanted + pool.surge - max(len(live), pool.wanted))
    return found


_Reasoned = list[tuple[Worker, str]]


def _surplus(pool: Pool, members: Sequence[Worker], rolling: Rolling) -> tuple[_Reasoned, _Reasoned]:
    """Workers that are to go, and why: those that are too many, and those that others of another revision replace."""
    live = [worker for worker in members if worker.live]
    new = [worker for worker in live if worker.revision == rolling.target]
    old = [worker for worker in live if worker.revision != rolling.target]
    count = f"{len(live)} workers of role {pool.role}, {pool.wanted} wanted"
    if not old or rolling.held:
        most = pool.wanted + (pool.surge if new and old else 0)
        return [(worker, count) for worker in _least_loss(live)[: max(0, len(live) - most)]], []
    may = limit(pool, rolling)
    gone = [(worker, count) for worker in _least_loss(new)[: max(0, len(new) - may)]]
    keep = pool.wanted - may
    if keep == 0 and rolling.share < 1 and pool.surge > 0:
        # A canary of the only worker has something to be compared with.
        keep = min(1, pool.wanted)
    replaceable = max(0, len(old) - keep)
    idle = [worker for worker in old if not worker.ready]
    serving = _least_loss([worker for worker in old if worker.ready])
    spare = sum(worker.ready for worker in live) - (pool.wanted - pool.unavailable)
    chosen = _least_loss(idle)[:replaceable]
    chosen += serving[: max(0, min(replaceable - len(chosen), spare))]
    return gone, [(worker, f"revision {worker.revision} is replaced by {rolling.target}") for worker in chosen]


def _aged(worker: Worker, now_s: float) -> Worker:
    """A worker whose engine has ended by itself, once it is old enough, has ended."""
    late = worker.engine_ended and now_s >= worker.created_s + ENGINE_END_S
    return dataclasses.replace(worker, ended=True) if late else worker


def _is_failing(worker: Worker, now_s: float) -> bool:
    """Whether it has failed so soon that another in its place has to wait."""
    return worker.phase is Phase.FAILED and not worker.deleting and now_s < worker.created_s + FAILURE_S


def _ended(members: Sequence[Worker], now_s: float) -> list[Command]:
    """Workers that are gone: after a drain, by an eviction, as a unit that has lost a rank, or with their engine."""
    found: list[Command] = []
    for worker in members:
        if worker.deleting or _is_failing(worker, now_s):
            continue
        if worker.phase is Phase.SUCCEEDED:
            found.append(Delete(worker.name, "it has ended"))
        elif worker.phase is Phase.FAILED:
            found.append(Delete(worker.name, f"it has failed{worker.problem and ': '}{worker.problem}"))
        elif worker.ended:
            found.append(Delete(worker.name, "its engine has ended" if worker.engine_ended else "it has drained"))
        elif worker.broken:
            found.append(Delete(worker.name, "a rank was lost: the whole unit is built anew"))
    return found


def _drained(members: Sequence[Worker], registry: bool, timeout_s: float, now_s: float) -> list[Command]:
    """Drains that have ended, are late, or have to be said again."""
    found: list[Command] = []
    for worker in members:
        running = worker.phase in (Phase.PENDING, Phase.RUNNING) and not (worker.broken or worker.ended)
        if worker.draining_since_s is None or worker.deleting or not running:
            continue
        if now_s - worker.draining_since_s >= timeout_s:
            found.append(Delete(worker.name, f"not drained in {timeout_s:g} s"))
        elif registry and worker.registered is None:
            found.append(Delete(worker.name, "drained"))
        elif registry and worker.registered is not types.WorkerState.DRAINING:
            found.append(Drain(worker.name, "told again"))
    return found


def _again_s(desired: Desired, observed: Observed, now_s: float) -> float | None:
    """Seconds until the next deadline of a drain or of a Pod that should be gone."""
    ends = [
        worker.draining_since_s + desired.drain_timeout_s
        for worker in observed.workers
        if worker.draining_since_s is not None and not worker.deleting
    ]
    ends += [worker.created_s + ENGINE_END_S for worker in observed.workers if worker.engine_ended]
    ends += [worker.created_s + FAILURE_S for worker in observed.workers if _is_failing(worker, now_s)]
    ends += [worker.gone_by_s + OVERDUE_S for worker in observed.workers if worker.gone_by_s is not None]
    return min((max(0.0, end_s - now_s) for end_s in ends if end_s > now_s), default=None)


def _least_loss(live: Sequence[Worker]) -> list[Worker]:
    """Those that lose least first: not ready, then the newest, then the highest name (Kubernetes' times are seconds)."""
    return sorted(live, key=lambda worker: (worker.ready, -worker.created_s, -len(worker.name), _reversed(worker.name)))


def _reversed(name: str) -> list[int]:
    return [-ord(letter) for letter in name]


def _free_names(deployment: str, role: str, workers: Sequence[Worker]) -> Iterator[str]:
    """Names that no worker has, the least first."""
    taken = {worker.name for worker in workers}
    base = deployment if role == types.ROLE_UNIFIED else f"{deployment}-{role}"
    index = 0
    while True:
        name = f"{base}-{index}"
        if name not in taken:
            yield name
        index += 1

"""Which workers to start and which to stop.

Level-based: looks at what is wanted and what is there, whatever happened before. A worker counts for its pool while it
is hosted or registered and neither drains nor failed. What is unknown is not zero: without a view of the host or the
registry nothing is started or stopped.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping, Sequence

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
# A pool that kept its wanted number ready for so long has got over its crashes.
STABLE_S = 30.0


class Hosting(enum.StrEnum):
    """What the host says of a worker."""

    STARTING = "starting"
    RUNNING = "running"
    FAILED = "failed"
    STOPPING = "stopping"


@dataclasses.dataclass(frozen=True)
class PoolTarget:
    """A pool and how many workers it is to have."""

    deployment: str
    role: str
    wanted: int

    @property
    def key(self) -> str:
        """Name of the pool."""
        return f"{self.deployment}/{self.role}"


@dataclasses.dataclass(frozen=True)
class Seen:
    """One worker as the host and the registry show it; None where one of them does not know it."""

    id: str
    deployment: str
    role: str
    hosting: Hosting | None = None
    registered: str | None = None
    load: int | None = None
    started_at_s: float = 0.0

    @property
    def pool(self) -> str:
        """Name of the pool that it is in."""
        return f"{self.deployment}/{self.role}"

    @property
    def leaving(self) -> bool:
        """Whether it is on its way out."""
        return self.hosting is Hosting.STOPPING or self.registered == "draining"

    @property
    def live(self) -> bool:
        """Whether it counts for its pool."""
        return not self.leaving and self.hosting is not Hosting.FAILED


@dataclasses.dataclass(frozen=True)
class Desired:
    """What is wanted. `drains`: workers that a person chose to go."""

    pools: tuple[PoolTarget, ...]
    drains: frozenset[str] = frozenset()
    surge: int = 1
    # Hosted and running, but not registered for so long: its agent is stuck.
    unregistered_s: float = 60.0


@dataclasses.dataclass(frozen=True)
class Observed:
    """What is there; None is a view that is not to be had now."""

    hosted: bool
    registry: bool
    workers: tuple[Seen, ...] = ()


@dataclasses.dataclass(frozen=True)
class PoolState:
    """What a pool remembers: crashes in a row, when the next start is allowed, since when it is complete."""

    failures: int = 0
    not_before_s: float = 0.0
    complete_since_s: float | None = None


@dataclasses.dataclass(frozen=True)
class State:
    """What is kept from one decision to the next."""

    pools: Mapping[str, PoolState] = dataclasses.field(default_factory=dict)
    next_index: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # Since when a running worker is missing from the registry.
    unregistered_since_s: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Start:
    """Start a worker of a pool under a new id."""

    worker_id: str
    deployment: str
    role: str


@dataclasses.dataclass(frozen=True)
class Stop:
    """Drain and stop a worker. `drain` False where there is nothing left to drain."""

    worker_id: str
    reason: str
    drain: bool = True


Command = Start | Stop


@dataclasses.dataclass(frozen=True)
class Decision:
    """What to do, why (for people), and what to remember. `hold`: nothing could be decided."""

    commands: tuple[Command, ...]
    reason: str
    state: State
    hold: bool = False


def reconcile(desired: Desired, observed: Observed, state: State, now_s: float) -> Decision:
    """Starts what is missing, stops what is failed, chosen or too many; never more than `surge` above wanted."""
    if not observed.hosted or not observed.registry:
        away = "the host" if not observed.hosted else "the registry"
        return Decision((), f"hold: {away} cannot be asked", state, hold=True)
    unregistered = _unregistered(observed, state, now_s)
    pools, indexes = dict(state.pools), dict(state.next_index)
    commands: list[Command] = []
    reasons: list[str] = []
    targets = {target.key: target for target in desired.pools}
    for seen in observed.workers:
        if seen.pool not in targets and seen.hosting is not None and not seen.leaving:
            commands.append(Stop(seen.id, "its pool is not wanted"))
    for key, target in targets.items():
        members = [seen for seen in observed.workers if seen.pool == key]
        step = _pool(target, members, desired, unregistered, pools.get(key, PoolState()), indexes, now_s)
        commands += step.commands
        pools[key] = step.state
        if step.reason:
            reasons.append(f"{key}: {step.reason}")
    kept = State(
        pools={key: value for key, value in pools.items() if key in targets},
        next_index=indexes,
        unregistered_since_s=unregistered,
    )
    return Decision(tuple(commands), "; ".join(reasons) or "as wanted", kept)


@dataclasses.dataclass(frozen=True)
class _Step:
    commands: list[Command]
    reason: str
    state: PoolState


def _pool(
    target: PoolTarget,
    members: Sequence[Seen],
    desired: Desired,
    unregistered: Mapping[str, float],
    memory: PoolState,
    indexes: dict[str, int],
    now_s: float,
) -> _Step:
    commands: list[Command] = []
    stopped: set[str] = set()
    failures = 0
    for seen in members:
        if seen.hosting is Hosting.FAILED:
            commands.append(Stop(seen.id, "it failed to start", drain=False))
            failures += 1
        elif seen.live and now_s - unregistered.get(seen.id, now_s) >= desired.unregistered_s:
            commands.append(Stop(seen.id, f"running but not registered for {desired.unregistered_s:g} s"))
            failures += 1
        elif seen.live and seen.id in desired.drains and seen.hosting is not None:
            commands.append(Stop(seen.id, "drain requested"))
        else:
            continue
        stopped.add(seen.id)
    live = [seen for seen in members if seen.live and seen.id not in stopped]
    memory = _remember(memory, failures, live, target, now_s)
    missing = target.wanted - len(live)
    # Those that leave still hold their place on the machine, up to the surge.
    leaving = sum(1 for seen in members if seen.hosting is not None and (seen.leaving or seen.id in stopped))
    room = target.wanted + desired.surge - len(live) - leaving
    reason = ""
    if missing > 0:
        reason = f"{missing} missing"
        if now_s < memory.not_before_s:
            reason += f", waiting {memory.not_before_s - now_s:.0f} s after {memory.failures} failures"
        else:
            taken = {seen.id for seen in members}
            for _ in range(max(0, min(missing, room))):
                commands.append(Start(_new_id(target, taken, indexes), target.deployment, target.role))
    for seen in _victims(live, -missing):
        commands.append(Stop(seen.id, f"{len(live)} workers, {target.wanted} wanted"))
    if missing < 0:
        reason = f"{-missing} too many"
    return _Step(commands, reason, memory)


def _remember(memory: PoolState, failures: int, live: Sequence[Seen], target: PoolTarget, now_s: float) -> PoolState:
    """Backoff doubles with each failure and is forgotten once the pool was complete for `STABLE_S`."""
    if failures:
        count = memory.failures + failures
        wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(count - 1, 16))
        return PoolState(count, now_s + wait_s)
    if sum(1 for seen in live if seen.registered == "ready") < target.wanted:
        return dataclasses.replace(memory, complete_since_s=None)
    since_s = memory.complete_since_s if memory.complete_since_s is not None else now_s
    if memory.failures and now_s - since_s >= STABLE_S:
        return PoolState(complete_since_s=since_s)
    return dataclasses.replace(memory, complete_since_s=since_s)


def _victims(live: Sequence[Seen], count: int) -> list[Seen]:
    """Those that lose least: not ready yet, then the idlest, then the newest. Unknown load counts as busy."""
    hosted = [seen for seen in live if seen.hosting is not None]

    def cost(seen: Seen) -> tuple[bool, float, float]:
        return (seen.registered == "ready", float("inf") if seen.load is None else seen.load, -seen.started_at_s)

    return sorted(hosted, key=cost)[: max(0, count)]


def _unregistered(observed: Observed, state: State, now_s: float) -> dict[str, float]:
    return {
        seen.id: state.unregistered_since_s.get(seen.id, now_s)
        for seen in observed.workers
        if seen.hosting is Hosting.RUNNING and seen.registered is None
    }


def _new_id(target: PoolTarget, taken: set[str], indexes: dict[str, int]) -> str:
    """Ids are not used twice, so that nobody takes a new worker for the one before it."""
    base = target.deployment if target.role == "unified" else f"{target.deployment}-{target.role}"
    used = [int(match[1]) for name in taken if (match := re.fullmatch(re.escape(base) + r"-(\d+)", name))]
    index = max([indexes.get(base, 0), *(number + 1 for number in used)])
    indexes[base] = index + 1
    name = f"{base}-{index}"
    taken.add(name)
    return name

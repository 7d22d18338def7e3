"""How a change of the specification reaches the workers: which revision they are to have now, and when it has failed.

What has to be known from pass to pass is in the object's status (`State`), so that another operator goes on where this one
stopped. A failed roll-out does not change the specification, which is the user's: the revision is remembered as rejected,
and the workers go back to the one before, or stay as they are.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from operators.policy import workers
from operators.policy.workers import Rolling, Worker

# A worker whose engine had started and does not answer for so long has failed.
UNREADY_S = 60.0
# A pull or a start that fails is tried again by the kubelet: the first failure is not the last word.
FAULT_S = 30.0
RESTARTS = 3
# Workers that failed while the registry was away are started again by their kubelets, at most so much later.
GRACE_S = 300.0
# What is only kept up is written this seldom.
_COARSE_S = 60.0


class Verdict(enum.StrEnum):
    """What the latencies of the new revision say beside those of the old one. Unknown is not good."""

    GOOD = "good"
    WORSE = "worse"
    UNKNOWN = "unknown"


class Phase(enum.StrEnum):
    """Where a roll-out is."""

    COMPLETE = "Complete"
    PROGRESSING = "Progressing"
    CANARY = "Canary"
    PAUSED = "Paused"
    STOPPED = "Stopped"
    ROLLED_BACK = "RolledBack"


@dataclasses.dataclass(frozen=True)
class State:
    """What is remembered. `revision` is the last that all workers had; empty before the first."""

    revision: str = ""
    update: str = ""
    rejected: str = ""
    cause: str = ""
    progress_s: float = 0.0
    updated_ready: int = 0
    remaining: int = 0
    # Since when the whole canary has been ready.
    canary_s: float | None = None
    canary_passed: bool = False
    # Since when a worker of the new revision shows a fault of its own; after the registry was away, from when on faults count.
    fault_s: float | None = None
    # Where it was at the last look.
    phase: str = ""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the specification says about the roll-out."""

    newest: str
    pools: tuple[workers.Pool, ...]
    deadline_s: float
    canary_share: float | None = None
    watch_s: float = 0.0
    roll_back: bool = True
    paused: bool = False


@dataclasses.dataclass(frozen=True)
class Decision:
    """What to do now, what to remember, what to say."""

    rolling: Rolling
    state: State
    phase: Phase
    message: str
    again_s: float | None = None


def decide(
    wanted: Wanted,
    state: State,
    members: Sequence[Worker],
    verdict: Verdict | None,
    now_s: float,
    *,
    registry: bool = True,
) -> Decision:
    """One step. `verdict` None: the deployment has no latency targets, so none are compared.

    `registry`: whether it can be asked. While it cannot, workers may fail for that alone, and no revision is given up.
    """
    newest = wanted.newest
    if newest == state.revision:
        done = State(revision=newest, update=newest)
        others = sum(worker.live and worker.revision != newest for worker in members)
        if others:
            said = f"back to revision {newest}: {others} workers have another and are to be replaced"
            return Decision(Rolling(newest), done, Phase.PROGRESSING, said)
        return Decision(Rolling(newest), done, Phase.COMPLETE, "all workers are to have this revision")
    if newest == state.rejected:
        return _after_failure(wanted, state)
    state = _measured(wanted, state, members, now_s)
    state = dataclasses.replace(state, fault_s=_fault_s(wanted, state, members, now_s))
    if _complete(wanted, state, members):
        done = State(revision=newest, update=newest)
        return Decision(Rolling(newest), done, Phase.COMPLETE, "every worker has the new revision and is ready")
    if not registry:
        state = _away(wanted, state, now_s)
    failure = _failure(wanted, state, members, verdict, now_s) if registry else ""
    if failure and state.revision:
        return _after_failure(wanted, dataclasses.replace(state, rejected=newest, cause=failure))
    if wanted.paused and state.revision:
        held = Rolling(newest, state.revision, held=True)
        return Decision(held, state, Phase.PAUSED, "the roll-out is paused: set spec.rollout.paused to false to go on")
    if wanted.canary_share is not None and state.revision and not state.canary_passed:
        return _canary(wanted, wanted.canary_share, state, members, verdict, now_s)
    left_s = wanted.deadline_s - (now_s - state.progress_s)
    shown = f"{state.updated_ready} workers have the new revision and are ready, {state.remaining} are to be replaced"
    again_s = left_s if left_s > 0 else None
    return Decision(Rolling(newest, state.revision), state, Phase.PROGRESSING, failure or shown, again_s)


def _measured(wanted: Wanted, state: State, members: Sequence[Worker], now_s: float) -> State:
    """The state with what has been reached; a new revision begins anew."""
    live = [worker for worker in members if worker.live]
    ready = sum(worker.ready and worker.revision == wanted.newest for worker in live)
    remaining = sum(worker.revision != wanted.newest for worker in live)
    if state.update != wanted.newest:
        return State(state.revision, wanted.newest, "", "", now_s, ready, remaining)
    moved = ready > state.updated_ready or remaining < state.remaining
    # Time under watch or on hold is no lack of progress.
    waited = state.phase == Phase.PAUSED or (state.canary_s is not None and state.canary_passed)
    moved = moved or (waited and not wanted.paused)
    state = dataclasses.replace(state, canary_s=None) if state.canary_passed else state
    return dataclasses.replace(
        state, progress_s=now_s if moved else state.progress_s, updated_ready=ready, remaining=remaining
    )


def _away(wanted: Wanted, state: State, now_s: float) -> State:
    """While the registry cannot be asked no time passes, and what fails meanwhile does not count."""
    late = now_s - state.progress_s >= min(_COARSE_S, wanted.deadline_s / 4)
    kept = state.fault_s is not None and state.fault_s >= now_s + GRACE_S - _COARSE_S
    return dataclasses.replace(
        state,
        progress_s=now_s if late else state.progress_s,
        fault_s=state.fault_s if kept else now_s + GRACE_S,
    )


def _fault_s(wanted: Wanted, state: State, members: Sequence[Worker], now_s: float) -> float | None:
    if state.fault_s is not None and state.fault_s > now_s:
        return state.fault_s
    if not any(worker.faulty and worker.live and worker.revision == wanted.newest for worker in members):
        return None
    return now_s if state.fault_s is None else state.fault_s


def _complete(wanted: Wanted, state: State, members: Sequence[Worker]) -> bool:
    if state.remaining:
        return False
    for pool in wanted.pools:
        own = [worker for worker in members if worker.live and worker.role == pool.role and worker.ready]
        if len(own) < pool.wanted:
            return False
    return True


def _failure(wanted: Wanted, state: State, members: Sequence[Worker], verdict: Verdict | None, now_s: float) -> str:
    """Why the roll-out has failed; empty where it has not."""
    spared = state.fault_s is not None and state.fault_s > now_s
    for worker in members:
        if not worker.live or worker.revision != wanted.newest or spared:
            continue
        if worker.faulty and state.fault_s is not None and now_s - state.fault_s >= FAULT_S:
            return f"worker {worker.name}: {worker.problem}"
        if worker.restarts >= RESTARTS and not worker.ready:
            return f"worker {worker.name} has been started {worker.restarts + 1} times and is not ready"
        if worker.unready_since_s is not None and now_s - worker.unready_since_s >= UNREADY_S:
            return f"worker {worker.name} had started and does not answer its readiness probe"
    if verdict is Verdict.WORSE:
        return "its latencies are worse than those of the revision before"
    if not wanted.paused and state.canary_s is None and now_s - state.progress_s >= wanted.deadline_s:
        return f"no progress for {wanted.deadline_s:g} s (spec.rollout.progressDeadline)"
    return ""


def _after_failure(wanted: Wanted, state: State) -> Decision:
    """Back to the revision before, or held where it is, until the specification changes again."""
    kept = dataclasses.replace(state, update=wanted.newest, canary_s=None, fault_s=None)
    step = "undo it with `penstock rollout undo`, or change the specification"
    # The cause may have a step of its own: that of the roll-out is the last.
    cause = state.cause.replace(" -> ", ": ")
    if wanted.roll_back:
        said = f"revision {wanted.newest} was rolled back: {cause} -> {step}"
        return Decision(Rolling(state.revision), kept, Phase.ROLLED_BACK, said)
    said = f"the roll-out of revision {wanted.newest} has stopped: {cause} -> {step}"
    return Decision(Rolling(wanted.newest, state.revision, held=True), kept, Phase.STOPPED, said)


def _canary(
    wanted: Wanted, share: float, state: State, members: Sequence[Worker], verdict: Verdict | None, now_s: float
) -> Decision:
    """A share has the new revision; the rest follows when it has been watched and is no worse."""
    rolling = Rolling(wanted.newest, state.revision, share)
    if not _canary_ready(wanted, rolling, members):
        waiting = dataclasses.replace(state, canary_s=None)
        left_s = wanted.deadline_s - (now_s - state.progress_s)
        return Decision(rolling, waiting, Phase.CANARY, "the canary's workers are starting", left_s)
    since_s = now_s if state.canary_s is None else state.canary_s
    watched = dataclasses.replace(state, canary_s=since_s)
    left_s = since_s + wanted.watch_s - now_s
    if left_s > 0:
        return Decision(rolling, watched, Phase.CANARY, "the canary is ready and is watched", left_s)
    if verdict is Verdict.UNKNOWN:
        said = (
            "too few requests reached the canary to compare its latencies: send some, or remove spec.rollout.canary to "
            "go on without"
        )
        return Decision(rolling, watched, Phase.CANARY, said, 15.0)
    passed = dataclasses.replace(watched, canary_passed=True)
    said = "the canary is no worse: the rest follows"
    return Decision(Rolling(wanted.newest, state.revision), passed, Phase.PROGRESSING, said, 0.0)


def _canary_ready(wanted: Wanted, rolling: Rolling, members: Sequence[Worker]) -> bool:
    for pool in wanted.pools:
        ready = sum(
            worker.live and worker.ready and worker.role == pool.role and worker.revision == rolling.target
            for worker in members
        )
        if ready < workers.limit(pool, rolling):
            return False
    return True

"""Which of the accelerators that a role may run on new workers get: the best, and the next where no node takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from operators.policy.workers import Worker

# After so long on another kind the best one is tried again, for new workers only.
RETRY_S = 1800.0


@dataclasses.dataclass(frozen=True)
class Choice:
    """One kind of hardware, and how long a worker waits for it."""

    profile: str
    fallback_after_s: float


@dataclasses.dataclass(frozen=True)
class Placement:
    """What new workers of the role are placed on, since when, which waited in vain, and when to look again."""

    profile: str = ""
    since_s: float = 0.0
    stuck: tuple[str, ...] = ()
    message: str = ""
    again_s: float | None = None


def choose(
    choices: Sequence[Choice], current: str, since_s: float, members: Sequence[Worker], now_s: float
) -> Placement:
    """Goes on to the next kind where a worker has waited its time for this one, and back to the best after a while."""
    if not choices:
        return Placement()
    names = [choice.profile for choice in choices]
    index = names.index(current) if current in names else 0
    began_s = since_s if current in names else now_s
    waiting = [
        worker
        for worker in members
        if worker.live and worker.unschedulable_since_s is not None and worker.accelerator in names
    ]
    late = [worker for worker in waiting if _late(choices[names.index(worker.accelerator)], worker, now_s)]
    if len(choices) == 1:
        return Placement(names[0], began_s)
    message = ""
    if any(worker.accelerator == names[index] for worker in late):
        before, index, began_s = names[index], (index + 1) % len(names), now_s
        message = f"no node takes a worker on {before}: the next ones are placed on {names[index]}"
    elif index and now_s - began_s >= RETRY_S:
        index, began_s = 0, now_s
    stuck = tuple(worker.name for worker in late if worker.accelerator != names[index])
    return Placement(names[index], began_s, stuck, message, _again_s(choices, names, waiting, index, began_s, now_s))


def _late(choice: Choice, worker: Worker, now_s: float) -> bool:
    return worker.unschedulable_since_s is not None and now_s - worker.unschedulable_since_s >= choice.fallback_after_s


def _again_s(
    choices: Sequence[Choice], names: list[str], waiting: Sequence[Worker], index: int, began_s: float, now_s: float
) -> float | None:
    ends = [
        worker.unschedulable_since_s + choices[names.index(worker.accelerator)].fallback_after_s
        for worker in waiting
        if worker.unschedulable_since_s is not None
    ]
    if index:
        ends.append(began_s + RETRY_S)
    return min((max(0.0, end_s - now_s) for end_s in ends if end_s > now_s), default=None)

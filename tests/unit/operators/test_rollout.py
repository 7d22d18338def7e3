"""How a change reaches the workers: played step by step, with Pods that start, drain and fail."""

from __future__ import annotations

import dataclasses

import pytest

from operators.policy import rollout, workers
from operators.policy.rollout import Phase, State, Verdict
from operators.policy.workers import Pool, Worker
from penstock.api.types import WorkerState

DEADLINE_S = 600.0


class Play:
    """A deployment whose workers do at once what they are told, and become ready a step later."""

    def __init__(
        self, count: int, *, surge: int = 1, unavailable: int = 0, newest: str = "new", **wanted: object
    ) -> None:
        self.pools = (Pool("unified", count, surge, unavailable),)
        self.wanted = rollout.Wanted(newest, self.pools, DEADLINE_S, **wanted)  # type: ignore[arg-type]  # by name
        self.state = State(revision="old", update="old")
        self.members = {f"m-{n}": self.worker(f"m-{n}", "old") for n in range(count)}
        self.now_s = 1_000.0
        self.verdict: Verdict | None = None
        self.sick: frozenset[str] = frozenset()
        self.most = count
        self.least_ready = count
        self.decision: rollout.Decision

    def worker(self, name: str, revision: str, *, ready: bool = True) -> Worker:
        """One worker."""
        state = WorkerState.READY if ready else WorkerState.STARTING
        return Worker(
            name,
            "unified",
            workers.Phase.RUNNING,
            self.now_s if not ready else 0.0,
            ready,
            registered=state,
            revision=revision,
        )

    def step(self, passed_s: float = 1.0) -> None:
        """One pass, and what follows from it."""
        self.now_s += passed_s
        seen = tuple(self.members.values())
        self.decision = rollout.decide(self.wanted, self.state, seen, self.verdict, self.now_s)
        self.state = dataclasses.replace(self.decision.state, phase=self.decision.phase.value)
        desired = workers.Desired("m", self.pools, 60.0)
        plan = workers.reconcile(desired, workers.Observed(seen), self.now_s, self.decision.rolling)
        for name, each in list(self.members.items()):
            if each.draining_since_s is not None:
                self.members[name] = dataclasses.replace(each, registered=None, ready=False)
            elif not each.ready and each.revision not in self.sick:
                self.members[name] = dataclasses.replace(each, ready=True, registered=WorkerState.READY)
        for command in plan.commands:
            match command:
                case workers.Create():
                    self.members[command.worker] = self.worker(command.worker, command.revision, ready=False)
                case workers.Drain():
                    self.members[command.worker] = dataclasses.replace(
                        self.members[command.worker], draining_since_s=self.now_s, registered=WorkerState.DRAINING
                    )
                case workers.Delete():
                    del self.members[command.worker]
        self.most = max(self.most, len(self.members))
        self.least_ready = min(self.least_ready, sum(each.ready and each.live for each in self.members.values()))

    def until(self, phase: Phase, steps: int = 200) -> None:
        """Steps until this is reached."""
        for _ in range(steps):
            self.step()
            if self.decision.phase is phase:
                break
        else:
            raise AssertionError(self.decision)
        # What drains goes.
        for _ in range(3):
            self.step()

    def revisions(self) -> dict[str, int]:
        """Workers by revision."""
        found = [each.revision for each in self.members.values()]
        return {each: found.count(each) for each in sorted(set(found))}


@pytest.mark.parametrize(
    ("count", "surge", "unavailable"), [(4, 1, 0), (4, 2, 0), (4, 0, 1), (4, 0, 3), (5, 2, 2), (1, 1, 0), (1, 0, 1)]
)
def test_every_worker_is_replaced_within_the_limits(count: int, surge: int, unavailable: int) -> None:
    """Never more Pods, with those that drain, than wanted and surge; never fewer ready ones than may be missing."""
    play = Play(count, surge=surge, unavailable=unavailable)
    play.until(Phase.COMPLETE)
    assert play.revisions() == {"new": count}
    assert play.most <= count + surge
    assert play.least_ready >= count - unavailable
    assert play.state.revision == "new"


def test_a_canary_stops_at_its_share_until_it_was_watched() -> None:
    """A quarter of eight gets the new revision; the rest follows when the time is over and it is no worse."""
    play = Play(8, canary_share=0.25, watch_s=100.0)
    play.verdict = Verdict.UNKNOWN
    for _ in range(30):
        play.step()
    assert play.decision.phase is Phase.CANARY
    assert play.revisions() == {"new": 2, "old": 6}
    play.verdict = Verdict.GOOD
    for _ in range(5):
        play.step()
    assert play.revisions() == {"new": 2, "old": 6}
    play.step(100.0)
    play.until(Phase.COMPLETE)
    assert play.revisions() == {"new": 8}


def test_unknown_is_not_good() -> None:
    """Without data the canary is held for as long as it takes, and no deadline makes a failure of it."""
    play = Play(4, canary_share=0.25, watch_s=10.0)
    play.verdict = Verdict.UNKNOWN
    for _ in range(20):
        play.step(DEADLINE_S / 4)
    assert play.decision.phase is Phase.CANARY
    assert "too few requests" in play.decision.message
    assert play.revisions() == {"new": 1, "old": 3}
    play.verdict = Verdict.GOOD
    play.until(Phase.COMPLETE)


def test_without_latency_targets_a_canary_is_judged_by_its_readiness() -> None:
    """Nothing is compared where the deployment has no targets."""
    play = Play(4, canary_share=0.25, watch_s=10.0)
    play.until(Phase.COMPLETE)


def test_a_canary_of_one_worker_has_something_beside_it() -> None:
    """The only old worker stays while the new one is watched, where there is room for both."""
    play = Play(1, canary_share=0.1, watch_s=50.0)
    for _ in range(10):
        play.step()
    assert play.revisions() == {"new": 1, "old": 1}
    play.until(Phase.COMPLETE)
    assert play.revisions() == {"new": 1}


def test_worse_latencies_roll_back() -> None:
    """The revision is rejected, its workers go, and it is not tried again."""
    play = Play(4, canary_share=0.5, watch_s=100.0)
    for _ in range(12):
        play.step()
    play.verdict = Verdict.WORSE
    play.until(Phase.ROLLED_BACK)
    play.verdict = None
    for _ in range(20):
        play.step()
    assert play.revisions() == {"old": 4}
    assert (play.state.rejected, play.state.revision) == ("new", "old")
    assert "latencies are worse" in play.decision.message and play.most <= 5


def sick(play: Play, **changes: object) -> None:
    """The new revision's workers never become ready, and show why."""
    play.sick = frozenset({"new"})
    for name, each in play.members.items():
        if each.revision == "new":
            play.members[name] = dataclasses.replace(each, **changes)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("changes", "after_s", "cause"),
    [
        ({"problem": "ErrImagePull: no such image", "faulty": True}, 31, "worker m-4: ErrImagePull"),
        ({"restarts": 3}, 0, "has been started 4 times"),
        ({"unready_since_s": 1_001.0}, 60, "does not answer its readiness probe"),
        ({}, DEADLINE_S, "no progress for 600 s"),
        ({"problem": "Unschedulable", "unschedulable_since_s": 1_000.0}, DEADLINE_S, "no progress for 600 s"),
    ],
)
def test_failing_readiness_rolls_back(changes: dict[str, object], after_s: float, cause: str) -> None:
    """Images, crashes, probes and time each end the roll-out with one worker of the new revision, and take it back."""
    play = Play(4)
    play.sick = frozenset({"new"})
    play.step()
    sick(play, **changes)
    if after_s:
        play.step(0)
        play.step(after_s - 2)
        assert play.decision.phase is Phase.PROGRESSING
        sick(play, **changes)
    play.step(3)
    assert play.decision.phase is Phase.ROLLED_BACK
    assert cause in play.decision.message
    for _ in range(5):
        play.step()
    assert play.revisions() == {"old": 4}
    assert play.least_ready == 4


def test_a_fault_counts_from_when_it_is_seen() -> None:
    """After a long download one pull that fails is no failure of the roll-out; one that fails for half a minute is."""
    play = Play(4)
    play.sick = frozenset({"new"})
    play.step()
    play.step(300.0)
    fault = {"problem": "ErrImagePull: timeout", "faulty": True}
    for passed_s, changes in ((1.0, fault), (20.0, fault), (5.0, {"faulty": False}), (20.0, fault), (25.0, fault)):
        sick(play, **changes)
        play.step(passed_s)
        assert play.decision.phase is Phase.PROGRESSING
    play.step(5.0)
    assert play.decision.phase is Phase.ROLLED_BACK


def test_stop_holds_where_it_is() -> None:
    """With onFailure Stop nothing more is replaced, and a worker that is lost is made of the revision before."""
    play = Play(4, unavailable=1, roll_back=False)
    play.step()
    play.step()
    play.verdict = Verdict.WORSE
    play.until(Phase.STOPPED)
    for _ in range(5):
        play.step()
    before = play.revisions()
    assert set(before) == {"new", "old"}
    lost = next(name for name, each in play.members.items() if each.revision == "new")
    del play.members[lost]
    for _ in range(10):
        play.step()
    assert play.revisions().get("new", 0) == before["new"] - 1
    assert sum(play.revisions().values()) == 4


def test_a_pause_holds_and_goes_on() -> None:
    """Paused, the counts stay; the time does not count against the deadline."""
    play = Play(6)
    for _ in range(6):
        play.step()
    play.wanted = dataclasses.replace(play.wanted, paused=True)
    for _ in range(4):
        play.step()
    before = play.revisions()
    for _ in range(10):
        play.step(DEADLINE_S)
    assert play.revisions() == before and play.decision.phase is Phase.PAUSED
    play.wanted = dataclasses.replace(play.wanted, paused=False)
    play.until(Phase.COMPLETE)


def test_a_change_in_the_middle_goes_to_the_newest() -> None:
    """The half-done revision is replaced like the old one."""
    play = Play(4)
    for _ in range(6):
        play.step()
    play.wanted = dataclasses.replace(play.wanted, newest="newer")
    play.until(Phase.COMPLETE)
    assert play.revisions() == {"newer": 4} and play.most <= 5


def test_going_back_by_hand_is_no_roll_out() -> None:
    """The specification of the revision that all had before: the new workers are replaced, nothing is rejected."""
    play = Play(4)
    for _ in range(6):
        play.step()
    play.wanted = dataclasses.replace(play.wanted, newest="old")
    for _ in range(20):
        play.step()
    assert play.revisions() == {"old": 4}
    assert (play.state.rejected, play.decision.phase) == ("", Phase.COMPLETE)


def test_a_first_roll_out_has_nothing_to_go_back_to() -> None:
    """Its failure is said and it goes on trying."""
    play = Play(2)
    play.members, play.state = {}, State()
    play.sick = frozenset({"new"})
    play.step()
    play.step(DEADLINE_S + 1)
    assert play.decision.phase is Phase.PROGRESSING
    assert "no progress" in play.decision.message
    play.sick = frozenset()
    play.until(Phase.COMPLETE)
    assert play.state.revision == "new"


def test_scaling_in_the_middle_keeps_the_limits() -> None:
    """A count that falls and rises during the roll-out is followed."""
    play = Play(6)
    for _ in range(5):
        play.step()
    for count in (3, 5):
        play.pools = (Pool("unified", count),)
        play.wanted = dataclasses.replace(play.wanted, pools=play.pools)
        for _ in range(4):
            play.step()
    play.until(Phase.COMPLETE)
    for _ in range(5):
        play.step()
    assert play.revisions() == {"new": 5}


def test_no_revision_is_given_up_for_a_registry_that_is_away() -> None:
    """Workers whose agents end for want of Redis, past every deadline: with the registry again, time begins anew."""
    play = Play(2)
    play.step()
    sick = dataclasses.replace(play.worker("m-2", "new", ready=False), restarts=5, faulty=True, problem="crash loop")
    seen = (*play.members.values(), sick)
    later_s = play.now_s + 2 * DEADLINE_S
    away = rollout.decide(play.wanted, play.state, seen, None, later_s, registry=False)
    assert away.phase is Phase.PROGRESSING and not away.state.rejected
    healthy = dataclasses.replace(sick, restarts=0, faulty=False, problem="")
    back = rollout.decide(play.wanted, away.state, (*play.members.values(), healthy), None, later_s + 1)
    assert back.phase is Phase.PROGRESSING and not back.state.rejected
    still = rollout.decide(play.wanted, away.state, seen, None, later_s + 290)
    assert still.phase is Phase.PROGRESSING, "their kubelets may wait for minutes before they start them again"
    over = rollout.decide(play.wanted, still.state, seen, None, later_s + 400)
    assert over.phase is Phase.ROLLED_BACK


def test_a_way_back_is_under_way_until_the_last_worker_has_it() -> None:
    """A specification that is the serving revision's again, with workers of another: not complete before they are replaced."""
    play = Play(2, newest="old")
    play.members["m-2"] = play.worker("m-2", "new")
    play.step()
    assert play.decision.phase is Phase.PROGRESSING and "1 workers have another" in play.decision.message
    play.until(Phase.COMPLETE)
    assert play.revisions() == {"old": 2}


def test_an_absence_is_noted_once_in_a_while() -> None:
    """The state is the object's status: it is not to change in every pass."""
    play = Play(2)
    play.step()
    state, seen, states = play.state, tuple(play.members.values()), set()
    for passed_s in range(60):
        state = rollout.decide(play.wanted, state, seen, None, play.now_s + 100 + passed_s, registry=False).state
        states.add(state)
    assert len(states) <= 2

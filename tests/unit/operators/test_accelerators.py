"""Which hardware new workers get, and whether a revision is slower."""

from __future__ import annotations

import math

import pytest

from operators.policy import accelerators, latencies, problems
from operators.policy.accelerators import Choice
from operators.policy.latencies import Histogram, Target
from operators.policy.rollout import Verdict
from operators.policy.workers import Phase, Worker

CHOICES = (Choice("h100", 60.0), Choice("a100", 120.0))
NOW_S = 10_000.0


def waiting(name: str, profile: str, for_s: float) -> Worker:
    """A worker that no node takes."""
    return Worker(name, "unified", Phase.PENDING, 0.0, accelerator=profile, unschedulable_since_s=NOW_S - for_s)


@pytest.mark.parametrize(
    ("current", "since_s", "members", "profile", "stuck"),
    [
        ("", NOW_S, (), "h100", ()),
        ("h100", 0.0, (waiting("m-0", "h100", 59),), "h100", ()),
        ("h100", 0.0, (waiting("m-0", "h100", 60), waiting("m-1", "h100", 5)), "a100", ("m-0",)),
        ("a100", NOW_S - 10, (waiting("m-1", "h100", 70),), "a100", ("m-1",)),
        ("a100", NOW_S - 10, (waiting("m-0", "a100", 119),), "a100", ()),
        ("a100", NOW_S - 10, (waiting("m-0", "a100", 121),), "h100", ("m-0",)),
        ("a100", NOW_S - 1799, (), "a100", ()),
        ("a100", NOW_S - 1800, (), "h100", ()),
        ("gone", 0.0, (), "h100", ()),
    ],
)
def test_choice(
    current: str, since_s: float, members: tuple[Worker, ...], profile: str, stuck: tuple[str, ...]
) -> None:
    """The best first; the next where a worker waited its time; the best again after a while; the last wraps around."""
    found = accelerators.choose(CHOICES, current, since_s, members, NOW_S)
    assert (found.profile, found.stuck) == (profile, stuck)


def test_without_an_alternative_a_worker_waits() -> None:
    """One kind is waited for; none is none."""
    assert accelerators.choose(CHOICES[:1], "h100", 0.0, (waiting("m-0", "h100", 1e6),), NOW_S).stuck == ()
    assert accelerators.choose((), "", 0.0, (), NOW_S).profile == ""


def test_the_next_look_is_when_the_wait_is_over() -> None:
    """The pass is made again at the deadline, not before."""
    found = accelerators.choose(CHOICES, "h100", 0.0, (waiting("m-0", "h100", 20),), NOW_S)
    assert found.again_s == 40.0


def spread(**counts: float) -> Histogram:
    """Requests by bucket in ms, such as `ms100=5`."""
    return Histogram({float(name[2:]) / 1e3 if name != "more" else math.inf: count for name, count in counts.items()})


FAST, SLOW, FEW = spread(ms100=95, ms200=5), spread(ms100=50, ms1000=50), spread(ms100=5)
TARGET = (Target("ttft", 0.95, 0.3),)


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (FAST, FAST, Verdict.GOOD),
        (FAST, SLOW, Verdict.WORSE),
        (SLOW, SLOW, Verdict.GOOD),
        (SLOW, FAST, Verdict.GOOD),
        (FAST, FEW, Verdict.UNKNOWN),
        (FEW, SLOW, Verdict.UNKNOWN),
    ],
)
def test_worse_is_missing_the_target_and_clearly_more_than_before(
    old: Histogram, new: Histogram, verdict: Verdict
) -> None:
    """A target that both miss alike is no fault of the new revision; few requests say nothing."""
    assert latencies.compare(TARGET, {"ttft": old}, {"ttft": new}) is verdict


def test_nothing_reported_is_unknown() -> None:
    """No histogram on either side is no data."""
    assert latencies.compare(TARGET, {}, {"ttft": FAST}) is Verdict.UNKNOWN


def test_quantiles_are_within_their_bucket() -> None:
    """Linear inside a bucket; beyond the last bound its lower edge; none without requests."""
    assert spread(ms100=50, ms200=50).quantile_s(0.75) == pytest.approx(0.15)
    assert spread(ms100=1, more=9).quantile_s(0.9) == pytest.approx(0.1)
    assert spread(ms100=0).quantile_s(0.5) is None


def test_a_counter_that_fell_began_anew() -> None:
    """What a restarted process counts is all new."""
    assert FAST.less(FAST).total == 0
    assert FEW.less(FAST).total == 5


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('API server: 403: pods "m-0" is forbidden: exceeded quota: gpus', "QuotaExceeded"),
        ('API server: 403: pods is forbidden: User "op" cannot create resource "pods"', "NoRights"),
        ('API server: 403: pods "m-0" is forbidden: violates PodSecurity "restricted"', "PodSecurity"),
        ("API server: 422: no PriorityClass", "CreationRefused"),
    ],
)
def test_refusals_are_told_apart(said: str, reason: str) -> None:
    """Each has its reason, its own words and a next step."""
    found, message = problems.of_refusal(said)
    assert found == reason
    assert said in message and " -> " in message

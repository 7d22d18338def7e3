"""Steps done one by one and stretches jumped over come to the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import perf
from workers.engine import engine, types

STEP = perf.StepModel(c=1.0, w0=5.0, b=0.1, kappa=1e-2, q=1e-4)


@dataclasses.dataclass(frozen=True)
class Job:
    """A request to come; `hashed` tells whether what it generates can be found by the next of its family."""

    gap_ms: int
    prompt: int
    output: int
    family: int
    priority: int
    hashed: bool


JOBS = st.lists(
    st.builds(
        Job,
        gap_ms=st.integers(0, 200),
        prompt=st.integers(1, 60),
        output=st.integers(1, 60),
        family=st.integers(0, 2),
        priority=st.integers(0, 1),
        hashed=st.booleans(),
    ),
    min_size=1,
    max_size=25,
)
CONFIGS = st.builds(
    types.EngineConfig,
    kv_blocks=st.integers(30, 60),
    block_size=st.sampled_from([4, 7]),
    max_num_batched_tokens=st.integers(8, 64),
    max_num_seqs=st.integers(1, 8),
    prefix_caching=st.booleans(),
    kv_events=st.just(True),
)


def request(number: int, job: Job, size: int) -> types.Request:
    """The engine's request of a job."""

    def more(first: int, count: int) -> list[int]:
        return [hash((job.family, first + index)) for index in range(count)]

    hashes = more(0, job.prompt // size)
    return types.Request(
        str(number), job.prompt, job.output, hashes, priority=job.priority, extend=more if job.hashed else None
    )


def play(config: types.EngineConfig, jobs: list[Job], jump: bool) -> tuple[engine.Engine, dict[str, Any]]:
    """Runs the jobs on a clock of its own; returns the engine and what happened to each."""
    model = engine.Engine(config, STEP)
    seen: dict[str, Any] = {"first": {}, "end": {}, "cached": {}, "events": []}
    now_s, at = 0.0, 0
    # Odd offsets, so that no arrival falls on the end of a step, which rounding would decide.
    arrivals: list[tuple[float, types.Request]] = []
    due_s = 0.000137
    for number, job in enumerate(jobs):
        due_s += job.gap_ms / 1000
        arrivals.append((due_s, request(number, job, config.block_size)))
    while True:
        while at < len(arrivals) and arrivals[at][0] <= now_s:
            model.add(arrivals[at][1], arrivals[at][0])
            at += 1
        steady = model.steady_steps() if jump else 0
        if steady:
            if at < len(arrivals):
                steady = model.steps_until(arrivals[at][0] - now_s, steady)
            stretch = model.advance(steady)
            now_s += stretch.duration_s
            finished, first, events = stretch.finished, [], stretch.kv_events
        else:
            result = model.step(now_s)
            if result is None:
                if at == len(arrivals):
                    break
                now_s = arrivals[at][0]
                continue
            now_s += result.duration_s
            finished, first, events = result.finished, result.first, result.kv_events
        for each in first:
            seen["first"].setdefault(each.id, now_s)
        for each in finished:
            seen["end"][each.id] = now_s
            seen["cached"][each.id] = (each.cached_tokens, each.preemptions)
        for event in events:
            hashes = getattr(event, "hashes", ())
            seen["events"].append((type(event).__name__, tuple(hashes)))
        model.pool.check()
    return model, seen


@settings(max_examples=300, deadline=None)
@given(CONFIGS, JOBS)
def test_a_jump_comes_to_what_its_steps_come_to(config: types.EngineConfig, jobs: list[Job]) -> None:
    """First tokens, ends, cached tokens, preemptions and KV events are those of the run step by step."""
    slow, by_step = play(config, jobs, jump=False)
    quick, by_jump = play(config, jobs, jump=True)
    assert by_jump["events"] == by_step["events"]
    assert by_jump["cached"] == by_step["cached"]
    assert by_jump["first"] == pytest.approx(by_step["first"], rel=1e-9)
    assert by_jump["end"] == pytest.approx(by_step["end"], rel=1e-9)
    assert quick.counters == slow.counters
    assert quick.pool.usage == slow.pool.usage


def test_a_lone_answer_is_one_jump() -> None:
    """A thousand decode steps of one request are one stretch, whose gaps grow by what the KV grows."""
    model = engine.Engine(types.EngineConfig(kv_blocks=200, block_size=16), STEP)
    model.add(types.Request("a", 100, 1001), 0.0)
    model.step(0.0)
    assert model.steady_steps() == 1000
    stretch = model.advance(1000)
    assert [each.id for each in stretch.finished] == ["a"]
    assert stretch.last_s - stretch.first_s == pytest.approx(999 * STEP.kappa / 1000)
    assert stretch.duration_s == pytest.approx(1000 * (stretch.first_s + stretch.last_s) / 2)

"""A run from its settings to its figures: opens the trace, drives it, collects what came back."""

import asyncio
import dataclasses
import itertools
import pathlib
import resource
import signal
from collections.abc import Callable, Mapping

import uvloop

from controller.replay import bodies, driver, fetch, target
from penstock.report import outcome, slo, summary
from penstock.workload import formats, options, prompts, request

POLICY_HEADER = "x-penstock-policy"
_FILES = 65536


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run is told."""

    trace: pathlib.Path
    format: str
    to: target.Target
    headers: Mapping[str, str]
    reading: options.ReadOptions
    body: bodies.BodyOptions
    drive: driver.DriveOptions
    targets: slo.Slo | None = None
    limit: int | None = None
    strict: bool = False


def execute(
    plan: Plan,
    on_start: Callable[[int], None] = lambda _: None,
    on_done: Callable[[outcome.Outcome], None] = lambda _: None,
    on_bad: Callable[[request.BadRow], None] = lambda _: None,
) -> summary.Run:
    """Run the plan; SIGINT and SIGTERM end it early with what it has.

    `on_start` gets the number of requests. Raises `TraceError` and `TargetError`.
    """
    errors = request.RowErrors(plan.strict, on_bad=on_bad)
    wanted = itertools.islice(formats.read(plan.trace, plan.format, plan.reading, errors), plan.limit)
    found = list(wanted)
    on_start(len(found))
    _allow_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_drive(plan, found, errors, on_done))


async def _drive(
    plan: Plan,
    found: list[request.TraceRequest],
    errors: request.RowErrors,
    on_done: Callable[[outcome.Outcome], None],
) -> summary.Run:
    loop = asyncio.get_running_loop()
    asked = plan.body
    if asked.model is None and any(each.body is None or "model" not in each.body for each in found):
        asked = dataclasses.replace(asked, model=await fetch.first_model(plan.to, plan.headers))
    maker = bodies.Bodies(prompts.Prompts(plan.reading.seed, plan.reading.bytes_per_token), asked)
    driven = driver.Driver(loop, plan.to, plan.headers, maker, plan.drive, on_done)
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        interrupted = True
        driven.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        await driven.run(iter(found))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return summary.Run(driven.outcomes, driven.gaps_s, plan.targets, errors.count, interrupted)


def _allow_files() -> None:
    """Raise the soft limit of open files: each request under way holds a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

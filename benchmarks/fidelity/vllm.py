"""A real vLLM beside the simulator: calibrated on one workload, compared on another; the order of policies on two engines."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import random
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.fidelity import agents, awake, fleet, pace, table
from penstock import perf
from penstock.api import types
from penstock.workload import request
from simulator import scenario, simulation
from workers.vllm import tiny_model

ALLOWED = {"p50": 0.2, "p95": 0.2}
# A machine that changes its speed by more from one play to the next says nothing of an order.
STEADY = 0.15
UNSTEADY = 3
# One engine plays so often, with a calibration before each time and after the last: what else the host does comes and goes
# within a minute, and is part of both.
_PLAYS = 4
POLICIES = ("default", "least-request", "round-robin")
# What `vllm serve` does on a CPU where nothing is said.
_MAX_NUM_SEQS = 128
_LIMITS = ("--max-num-batched-tokens", "2048", "--max-num-seqs", str(_MAX_NUM_SEQS))
_SETTINGS: dict[str, str | int | float | bool] = {"max_model_len": 8192, "kv_cache_bytes": 1 << 27}
# Answers as short as those that are played (the first steps after a pause are slower), with the same sampling parameters.
_OUTPUT_TOKENS = 12
_LIKE_THE_PLAY = ("--output-tokens", str(_OUTPUT_TOKENS), "--extra-body", json.dumps(agents.SAMPLING))
_START_S = 400.0
_BUSY_ANSWERS, _BUSY_SEQS, _BUSY_SEEDS = 15.0, 4, (7, 8)
_LONG_SHARE, _LONG_TOKENS = 0.1, 200
# With the tiniest model the engine's Python takes all of a step, and its output waits for the interpreter's lock, often until
# the answer's end. This one has steps of several ms in which the lock is free, as every real model has.
_SHAPE = tiny_model.Shape(hidden=512, layers=4, heads=16, inner=1024)

# Notes the machine's pace while something of this name is done.
Timed = Callable[[str], contextlib.AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """What is played. `gap_s`: time from one session's beginning to the next, with one engine and with two."""

    sessions: pathlib.Path
    turns: int = 240
    output_tokens: int = _OUTPUT_TOKENS
    gap_s: float = 4.0
    gap_of_two_s: float = 4.0
    rounds: int = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What two engines play: the turns of each round, and how many sequences an engine runs at once."""

    name: str
    rounds: Sequence[Sequence[request.TraceRequest]]
    max_num_seqs: int

    def profile(self, source: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
        """The engines' profile, with as many sequences."""
        path = folder / f"{self.name}.json"
        found = perf.load_profile(str(source)).model_copy(update={"max_num_seqs": self.max_num_seqs})
        path.write_text(found.model_dump_json())
        return path


@dataclasses.dataclass(slots=True)
class Order:
    """Two engines under each policy, by round."""

    load: str
    measured: dict[str, list[dict[str, Any]]]
    simulated: dict[str, list[dict[str, Any]]]

    def means(self, policy: str, latency: str) -> tuple[float, float]:
        """Measured and simulated mean of a latency over the rounds, ms."""
        of = [statistics.fmean(each[latency]["mean"] for each in by[policy]) for by in (self.measured, self.simulated)]
        return of[0], of[1]


@dataclasses.dataclass(slots=True)
class Found:
    """Everything measured and simulated."""

    profile: perf.EngineProfile
    alone: Sequence[dict[str, Any]]
    """Of each play."""
    alone_simulated: Sequence[dict[str, Any]]
    """By each calibration."""
    orders: Sequence[Order]
    paces: dict[str, list[float]]
    """Of the machine, by what ran meanwhile, ms: like is compared with like, for what runs slows the machine down itself."""

    @property
    def drift(self) -> float:
        """By how much the machine changed its speed while two engines played a load, by its own pace."""
        return max(pace.spread(self.paces[each.load]) for each in self.orders)

    def unsure(self, row: table.Row) -> bool:
        """Whether plays and calibrations differ among themselves by so much that the row's verdict may be chance."""
        assert row.most is not None
        return abs(abs(row.error) - row.most) < 2.0 * table.error_of_error(*_each(self, row.figure))


async def run(setting: Setting, tell: Callable[[str], None]) -> Found:
    """All of it; some twenty minutes. Raises fleet.FleetError."""
    machine, paces = pace.Pace(), {name: list[float]() for name in ("calibration", "one engine", "sessions", "busy")}
    with awake.processors() as asleep, machine.held(), tempfile.TemporaryDirectory(prefix="fid-") as name:
        if asleep:
            tell(asleep)
        folder = pathlib.Path(name)
        path = folder / "profile.json"
        tiny_model.write(folder / "model", shape=_SHAPE)
        turns = agents.sessions(setting.sessions, setting.gap_s, setting.output_tokens)[: setting.turns]
        alone, predicted = await _alone(folder, path, turns, tell, lambda name: machine.of(paces[name]))
        profile = perf.load_profile(str(path))
        answer_s = _simulate(path, turns, 1, "round-robin")["e2e_ms"]["mean"] / 1000.0
        orders = [
            await _order(folder, path, each, tell, lambda name: machine.of(paces[name]))
            for each in loads(setting, answer_s)
        ]
        return Found(profile, alone, predicted, orders, paces)


def loads(setting: Setting, answer_s: float) -> list[Load]:
    """What the order of policies is asked on.

    The sessions as they are: caches decide, the other two rules are level. And `busy`, one answer in ten long on engines that
    run few sequences at once, as close together as such engines can bear whose answers take `answer_s`: there a request waits
    behind long answers unless its rule looks at the load. Which answers are long is drawn anew for each round; of eight draws
    these are the ones at which the simulator has all three the farthest apart (TTFT by 14 %, E2E by 4 % at least, also with
    engines 30 and 60 % slower than measured, as two are that share a machine).
    """
    calm = agents.sessions(setting.sessions, setting.gap_of_two_s, setting.output_tokens)[: setting.turns]
    dense = agents.sessions(setting.sessions, _BUSY_ANSWERS * answer_s, setting.output_tokens)[: setting.turns]
    busy = [_some_long(dense, _BUSY_SEEDS[number % len(_BUSY_SEEDS)]) for number in range(setting.rounds)]
    return [Load("sessions", [calm] * setting.rounds, _MAX_NUM_SEQS), Load("busy", busy, _BUSY_SEQS)]


def _some_long(turns: Sequence[request.TraceRequest], seed: int) -> list[request.TraceRequest]:
    rng = random.Random(seed)
    return [
        dataclasses.replace(each, output_tokens=_LONG_TOKENS) if rng.random() < _LONG_SHARE else each for each in turns
    ]


async def _alone(
    folder: pathlib.Path,
    path: pathlib.Path,
    turns: Sequence[request.TraceRequest],
    tell: Callable[[str], None],
    timed: Timed,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Plays the sessions on one engine, without a gateway between, and calibrates it before and after each play.

    Writes the profile of the calibration in the middle, by the mean E2E that it predicts.
    """
    engine = types.EngineSpec(kind="vllm", settings=_SETTINGS | {"model_path": str(folder / "model")})
    async with (
        fleet.workers(folder, engine, 1, _START_S) as redis_url,
        fleet.gateway(folder, redis_url, "round-robin", 1) as (_, [url]),
    ):
        # What an engine does after a pause (its caches are cold, its threads asleep) is part of what is predicted: it is
        # measured after as long a one as the middle request of the play finds.
        await _calibrate(url, path, 0.0, tell)
        pause_s = idle_s(turns, _simulate(path, turns, 1, "round-robin")["e2e_ms"]["mean"] / 1000.0)
        played, profiles = [], [path.with_name(f"calibrated-{number}.json") for number in range(_PLAYS + 1)]
        for number, each in enumerate(profiles):
            if number:
                await _reset([url])
                with timed("one engine"):
                    played.append(await _play(folder, url, turns))
                tell(f"one engine: {_middles(played[-1])}")
            with timed("calibration"):
                await _calibrate(url, each, pause_s, tell)
        predicted = [_simulate(each, turns, 1, "round-robin") for each in profiles]
        for each in predicted:
            tell(f"simulated: {_middles(each)}")
        middle = sorted(range(len(profiles)), key=lambda number: float(predicted[number]["e2e_ms"]["mean"]))[
            _PLAYS // 2
        ]
        path.write_bytes(profiles[middle].read_bytes())
        return played, predicted


def _middles(figures: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} p50 {figures[name]['p50']:.1f} p95 {figures[name]['p95']:.1f}" for name in table.LATENCIES
    )


async def _calibrate(url: str, path: pathlib.Path, pause_s: float, tell: Callable[[str], None]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controller.cli.main", "calibrate", "--target", url, "--out", str(path)),
        *("--max-prompt", "4500", "--max-batch", "8", "--rounds", "1", "--pause", f"{pause_s:.3f}"),
        *(*_LIKE_THE_PLAY, *_LIMITS),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    if process.returncode:
        raise fleet.FleetError(errors.decode())
    tell(f"after {pause_s:.3f} s: {errors.decode().strip()}")


def idle_s(turns: Sequence[request.TraceRequest], answer_s: float) -> float:
    """How long an engine has done nothing when a request comes, in the middle, where each answer takes `answer_s`."""
    free_s, found = 0.0, []
    for each in turns:
        found.append(max(0.0, each.arrival_s - free_s))
        free_s = max(free_s, each.arrival_s + answer_s)
    return statistics.median(found)


async def _order(
    folder: pathlib.Path, profile: pathlib.Path, load: Load, tell: Callable[[str], None], timed: Timed
) -> Order:
    """Plays a load on two engines under each policy, in turn, after a play that counts for none; caches begin empty."""
    path = load.profile(profile, folder)
    settings = _SETTINGS | {"model_path": str(folder / "model"), "max_num_seqs": load.max_num_seqs}
    engine = types.EngineSpec(kind="vllm", profile=str(path), settings=settings)
    found: dict[str, list[dict[str, Any]]] = {policy: [] for policy in POLICIES}
    async with fleet.workers(folder, engine, 2, _START_S) as redis_url:
        # What new engines do once, the first of batches of each size above all, took the first play's answers twice as long.
        async with fleet.gateway(folder, redis_url, "round-robin", 2) as (url, engines):
            await _play(folder, url, load.rounds[0])
        for number, turns in enumerate(load.rounds):
            for policy in POLICIES[number % 3 :] + POLICIES[: number % 3]:
                async with fleet.gateway(folder, redis_url, policy, 2) as (url, engines):
                    await _reset(engines)
                    with timed(load.name):
                        figures = await _play(folder, url, turns)
                found[policy].append(figures)
                said = f"TTFT {figures['ttft_ms']['mean']:.1f} ms, E2E {figures['e2e_ms']['mean']:.1f} ms"
                tell(f"{load.name}, {policy}: {said}")
    return Order(
        load.name, found, {each: [_simulate(path, turns, 2, each) for turns in load.rounds] for each in POLICIES}
    )


async def _play(folder: pathlib.Path, url: str, turns: Sequence[request.TraceRequest]) -> dict[str, Any]:
    path = folder / "turns.jsonl"
    agents.write(turns, path)
    figures = await fleet.replay(url, path, "--format", "openai-jsonl")
    tokens = sum(each.input_tokens for each in turns)
    if figures["prompt_tokens"] != tokens:
        raise fleet.FleetError(f"the engine counted {figures['prompt_tokens']} prompt tokens, not {tokens}")
    return figures


async def _reset(urls: Sequence[str]) -> None:
    for url in urls:
        asked = urllib.request.Request(f"{url}/reset_prefix_cache", b"{}", method="POST")
        with await asyncio.to_thread(urllib.request.urlopen, asked, timeout=30):
            pass


def _simulate(
    profile: pathlib.Path, turns: Sequence[request.TraceRequest], workers: int, policy: str
) -> dict[str, Any]:
    told = scenario.parse(
        {
            "fleet": {
                "models": [{"name": fleet.MODEL, "profile": str(profile), "pools": [{"workers": workers}]}],
                "block_size": agents.BLOCK_TOKENS,
            },
            "gateways": {"policy": policy},
        }
    )
    return simulation.run(told, agents.for_simulator(turns)).figures


def rows(found: Found) -> list[table.Row]:
    """The comparison on one engine: the means of the plays and of the predictions."""
    measured, predicted = _mean(found.alone), _mean(found.alone_simulated)
    return table.compare("one engine", measured, predicted, ALLOWED)


def _mean(every: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        latency: {figure: statistics.fmean(each[latency][figure] for each in every) for figure in ("mean", *ALLOWED)}
        for latency in table.LATENCIES
    }


def _each(found: Found, figure: str) -> tuple[list[float], list[float]]:
    latency, quantile = figure.split()
    name = f"{latency.lower()}_ms"
    return [each[name][quantile] for each in found.alone], [each[name][quantile] for each in found.alone_simulated]


def ranks(found: Found) -> list[tuple[str, str, str, str, str]]:
    """(load, latency, better, worse, order) of each pair of policies, the better as measured first; see `table.orders`."""
    out = []
    for order in found.orders:
        for latency in table.LATENCIES:
            measured = {policy: [each[latency]["mean"] for each in order.measured[policy]] for policy in POLICIES}
            simulated = {policy: order.means(policy, latency)[1] for policy in POLICIES}
            out += [(order.load, latency, *pair) for pair in table.orders(measured, simulated)]
    return out


def status(found: Found) -> int:
    """0: it agrees; 1: it does not; `UNSTEADY`: what does not may be the machine's doing, all of it."""
    missed = [row for row in rows(found) if row.met is False]
    other = any(order == "OTHER" for *_, order in ranks(found))
    if not missed and not other:
        return 0
    sure = any(not found.unsure(row) for row in missed) or (other and found.drift <= STEADY)
    return 1 if sure else UNSTEADY

"""Builds simulated workers and their engines from a scenario."""

from __future__ import annotations

from collections.abc import Iterator

from penstock import perf
from penstock.api import types as api
from simulator import scenario, worker
from workers.engine import engine, types


def workers(told: scenario.Scenario, block_size: int) -> Iterator[worker.Worker]:
    """The workers of a scenario, numbered over all pools, up and empty."""
    number = 0
    for model in told.fleet.models:
        for pool in model.pools:
            profile = perf.load_profile(pool.profile or model.profile)
            config = types.EngineConfig(
                kv_blocks=pool.kv_blocks or max(1, profile.kv_tokens // block_size),
                block_size=block_size,
                max_num_batched_tokens=pool.max_num_batched_tokens or profile.max_num_batched_tokens,
                max_num_seqs=pool.max_num_seqs or profile.max_num_seqs,
            )
            for _ in range(pool.workers):
                there = _worker(number, model.name, profile, config, pool.slowdown, len(told.classes))
                there.ready = True
                there.started_s = 0.0
                number += 1
                yield there


def like(there: worker.Worker, number: int) -> worker.Worker:
    """Another worker of the same kind, not started yet."""
    return _worker(number, there.record.model, there.profile, there.engine.config, there.slowdown, len(there.decoding))


def another_engine(there: worker.Worker) -> engine.Engine:
    """A new engine for a worker that starts again."""
    return engine.Engine(there.engine.config, there.profile.step, slowdown=there.slowdown)


def _worker(
    number: int, model: str, profile: perf.EngineProfile, config: types.EngineConfig, slowdown: float, groups: int
) -> worker.Worker:
    record = api.WorkerRecord(
        id=f"w-{number}",
        incarnation=1,
        deployment="sim",
        model=model,
        endpoint=api.Endpoint(host="127.0.0.1", port=1 + number % 65_535),
        state=api.WorkerState.READY,
        engine="sim",
        simulated=True,
        capacity=api.Capacity(
            kv_blocks=config.kv_blocks,
            block_size_tokens=config.block_size,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
        ),
        speed=perf.speed_of(profile, slowdown),
    )
    made = engine.Engine(config, profile.step, slowdown=slowdown)
    return worker.Worker(record, profile, made, groups, slowdown)

"""Builds simulated workers and their engines from a scenario."""

from __future__ import annotations

from collections.abc import Iterator

from penstock import perf
from penstock.api import types as api
from simulator import scenario, worker
from workers.engine import engine, types

_GB = 1e9


def workers(told: scenario.Scenario, block_size: int) -> Iterator[worker.Worker]:
    """The workers of a scenario, numbered over all pools, up and empty."""
    number = 0
    for model in told.fleet.models:
        for pool, name in zip(model.pools, pool_names(model), strict=True):
            profile = perf.load_profile(pool.profile or model.profile)
            config = types.EngineConfig(
                kv_blocks=pool.kv_blocks or max(1, profile.kv_tokens // block_size),
                block_size=block_size,
                max_num_batched_tokens=pool.max_num_batched_tokens or profile.max_num_batched_tokens,
                max_num_seqs=pool.max_num_seqs or profile.max_num_seqs,
            )
            for _ in range(pool.workers):
                there = _worker(
                    number, model.name, profile, config, pool.slowdown, len(told.classes), pool=name, role=pool.role
                )
                if pool.role != api.ROLE_UNIFIED:
                    _connect(
                        there, model.kv_bytes(pool) or 0, pool.kv_transfer_gbytes_s or told.fleet.kv_transfer_gbytes_s
                    )
                there.ready = True
                there.started_s = 0.0
                number += 1
                yield there


def like(there: worker.Worker, number: int) -> worker.Worker:
    """Another worker of the same kind, not started yet."""
    made = _worker(
        number,
        there.record.model,
        there.profile,
        there.engine.config,
        there.slowdown,
        len(there.decoding),
        pool=there.pool,
        role=there.record.role,
    )
    if there.kv_bytes_per_s:
        _connect(made, there.kv_bytes_per_token, there.kv_bytes_per_s / _GB)
    return made


def pool_names(model: scenario.Model) -> list[str]:
    """What a model's pools are called in the figures: model and role, numbered from the second of a role on."""
    names: list[str] = []
    for pool in model.pools:
        base = f"{model.name}/{pool.role}"
        count = sum(1 for name in names if name.partition("#")[0] == base)
        names.append(f"{base}#{count + 1}" if count else base)
    return names


def _connect(there: worker.Worker, bytes_per_token: int, gbytes_s: float) -> None:
    """Gives a worker a link, of which its registration tells."""
    there.kv_bytes_per_token = bytes_per_token
    there.kv_bytes_per_s = gbytes_s * _GB
    speed = there.record.speed
    assert speed is not None
    speed = speed.model_copy(update={"kv_ms_per_token": there.kv_ms_per_token})
    there.record = there.record.model_copy(update={"speed": speed})


def another_engine(there: worker.Worker) -> engine.Engine:
    """A new engine for a worker that starts again."""
    return engine.Engine(there.engine.config, there.profile.step, slowdown=there.slowdown)


def _worker(
    number: int,
    model: str,
    profile: perf.EngineProfile,
    config: types.EngineConfig,
    slowdown: float,
    groups: int,
    *,
    pool: str,
    role: str,
) -> worker.Worker:
    record = api.WorkerRecord(
        id=f"w-{number}",
        incarnation=1,
        deployment="sim",
        model=model,
        role=role,
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
    return worker.Worker(record, profile, made, groups, slowdown, pool)

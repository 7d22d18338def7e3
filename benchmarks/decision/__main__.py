"""`python -m benchmarks.decision`: CPU time of a decision among many endpoints, and memory of the index over unique prompts.

A decision is everything between a body's features and its endpoint: hashes of the prompt, look-up, scores, the account. The
plain Python is measured; the compiled form costs less.
"""

from __future__ import annotations

import itertools
import random
import resource
import time
from typing import Any, cast

import click

from penstock.api import types as api
from router.dataplane import fleet, gateway, upstream
from router.dataplane.features import Features
from router.index import prefix
from router.policy import profiles
from router.server import main as server

BYTES_PER_TOKEN = 4
TARGET_MS = 2.0


class _Clock:
    """Stands in for the event loop where a gateway asks for the time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def time(self) -> float:
        """Seconds."""
        return self.now_s


class _NoConnections:
    idle: tuple[()] = ()


class _Exchange:
    """What a gateway reads and writes of an exchange."""

    def __init__(self, text: bytes) -> None:
        self.features = Features("m", text, False, True, 200, "", "")
        self.hashes: list[int] | None = None
        self.pool: fleet.ModelPool | None = None
        self.profile = None
        self.session = None
        self.tenant = ""
        self.request_id = b"x"
        self.attempts = 1
        self.backend: fleet.Backend | None = None
        self.prefill = None
        self.predicted_cached = self.prompt_tokens = self.queued_tokens = 0
        self.queued_ms = self.decode_since_ms = 0.0


def _gateway(endpoints: int, budget_bytes: int, policy: str) -> tuple[gateway.Gateway, _Clock]:
    clock = _Clock()
    known = fleet.Fleet(prefix.PrefixIndex(budget_bytes), lambda record: cast(upstream.Connections, _NoConnections()))
    owner = gateway.Gateway(cast(Any, clock), known, profiles.by_name(policy), gateway.Limits(), "gw")
    for number in range(endpoints):
        known.upsert(
            api.WorkerRecord(
                id=f"w-{number}", incarnation=1, deployment="d", model="m", engine="sim", state=api.WorkerState.READY,
                endpoint=api.Endpoint(host="127.0.0.1", port=1 + number),
                capacity=api.Capacity(kv_blocks=59_064, block_size_tokens=16),
                speed=api.EngineSpeed(base_ms=20, ms_per_token=0.015, ms_per_token2=8e-7, ms_per_seq=0.04, step_base_ms=4),
            )
        )  # fmt: skip
    return owner, clock


def _route(owner: gateway.Gateway, clock: _Clock, text: bytes, under_way: list[Any], at_once: int) -> float:
    """Routes one prompt, ends the oldest beyond `at_once`; CPU time of the decision in ms."""
    clock.now_s += 0.01
    owner.tick = int(clock.now_s / gateway.TICK_S)
    ex: Any = _Exchange(text)
    start_s = time.thread_time()
    owner.route(ex, 0)
    used_ms = (time.thread_time() - start_s) * 1_000
    under_way.append(ex)
    if len(under_way) > at_once:
        oldest = under_way.pop(0)
        owner.prefilled(oldest)
        owner.release(oldest)
    return used_ms


@click.command()
@click.option("--endpoints", default=1_000, show_default=True, type=click.IntRange(1))
@click.option("--prompt-tokens", default=100_000, show_default=True, type=click.IntRange(16))
@click.option("--decisions", default=3_000, show_default=True, type=click.IntRange(100))
@click.option("--policy", default=profiles.DEFAULT, show_default=True, type=click.Choice(profiles.names()))
@click.option("--budget-mib", default=64, show_default=True, type=click.IntRange(1), help="Of the index.")
@click.pass_context
def main(
    context: click.Context, endpoints: int, prompt_tokens: int, decisions: int, policy: str, budget_mib: int
) -> None:
    """Exit status: 0 within the targets (2 ms at p99; the index within its budget), 1 not."""
    rng = random.Random(1)
    size = prompt_tokens * BYTES_PER_TOKEN
    heads = [rng.randbytes(size * 3 // 4) for _ in range(16)]
    pool = rng.randbytes(size)
    owner, clock = _gateway(endpoints, budget_mib << 20, policy)
    server.calm_collector()
    under_way: list[Any] = []
    costs_ms: list[float] = []
    # Some prompts first, so that what is measured meets a full index.
    for number in range(decisions // 4 + decisions):
        cut = rng.randrange(size // 4)
        text = heads[number % 16] + pool[cut : cut + size // 4]
        costs_ms.append(_route(owner, clock, text, under_way, 4 * endpoints))
    costs_ms = sorted(costs_ms[decisions // 4 :])
    p50_ms, p99_ms = costs_ms[len(costs_ms) // 2], costs_ms[int(len(costs_ms) * 0.99)]
    click.echo(f"{policy}, {endpoints:,} endpoints, {prompt_tokens:,} tokens")
    click.echo(f"CPU time of a decision: p50 {p50_ms:.3f} ms, p99 {p99_ms:.3f} ms (target {TARGET_MS:g})")
    kept = _unique(budget_mib << 20, rng)
    click.echo(
        f"an hour of unique prompts (3.4 a second, 12,000 tokens): index {kept[0] / 2**20:.1f} MiB at most of {budget_mib}, "
        f"process grew by {kept[1]:.0f} MiB"
    )
    context.exit(0 if p99_ms <= TARGET_MS and kept[0] <= budget_mib << 20 and kept[1] <= 1.5 * budget_mib else 1)


def _unique(budget_bytes: int, rng: random.Random) -> tuple[int, float]:
    """Most bytes that the index said to hold over an hour of prompts that share nothing, and the growth of the process, MiB."""
    owner, clock = _gateway(8, budget_bytes, profiles.DEFAULT)
    for backend in owner.fleet.backends.values():
        owner.fleet.index.set_capacity(backend.slot, None)
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    under_way: list[Any] = []
    most = 0
    for _ in itertools.repeat(None, int(3.4 * 3_600)):
        _route(owner, clock, rng.randbytes(12_000 * BYTES_PER_TOKEN), under_way, 64)
        most = max(most, owner.fleet.index.bytes)
    return most, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mib


if __name__ == "__main__":
    main()

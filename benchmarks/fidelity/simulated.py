"""The simulated worker in real time beside the simulator: the same requests, arrivals, policy and profile."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks.fidelity import fleet, table
from penstock.api import types
from simulator import scenario, simulation

ALLOWED = {"p50": 0.05, "p95": 0.10}
# Of Mooncake's blocks: both engines cache in the units that the trace names.
BLOCK_TOKENS = 512


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """What is played, on what."""

    trace: pathlib.Path
    requests: int = 500
    workers: int = 8
    kv_blocks: int = 500
    profile: str = "h100-qwen3-32b-tp2"
    speed: float = 1.0
    start_s: float = 600.0


def simulate(setting: Setting, policy: str) -> dict[str, Any]:
    """Figures of the simulator."""
    pool = {"workers": setting.workers, "kv_blocks": setting.kv_blocks}
    told = scenario.parse(
        {
            "trace": {
                "path": setting.trace,
                "format": "mooncake",
                "limit": setting.requests,
                "reading": {"start_s": setting.start_s},
            },
            "fleet": {
                "models": [{"name": fleet.MODEL, "profile": setting.profile, "pools": [pool]}],
                "block_size": BLOCK_TOKENS,
            },
            "gateways": {"policy": policy},
            "speed": setting.speed,
        }
    )
    return simulation.run(told).figures


async def measure(setting: Setting, policies: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Figures of real processes, by policy; each starts with empty caches. Raises fleet.FleetError."""
    engine = types.EngineSpec(
        kind="sim",
        profile=setting.profile,
        settings={"block_size": BLOCK_TOKENS, "kv_blocks": setting.kv_blocks},
    )
    arguments = (
        *("--format", "mooncake", "--limit", str(setting.requests), "--speed", str(setting.speed)),
        *("--start", str(setting.start_s), "--endpoint", "completions", "--ignore-eos"),
    )
    found = {}
    with tempfile.TemporaryDirectory(prefix="fidelity-") as name:
        for policy in policies:
            folder = pathlib.Path(name) / policy
            folder.mkdir()
            async with (
                fleet.workers(folder, engine, setting.workers) as redis_url,
                fleet.gateway(folder, redis_url, policy, setting.workers) as (url, _),
            ):
                found[policy] = await fleet.replay(url, setting.trace, *arguments)
    return found


def rows(policy: str, measured: dict[str, Any], simulated: dict[str, Any]) -> list[table.Row]:
    """The comparison for one policy."""
    return table.compare(policy, measured, simulated, ALLOWED)

"""Prompts and answers on workers of their own or not: `PENSTOCK_TRACES=FOLDER python -m benchmarks.simulator.roles`.

Mooncake's conversation trace on eight workers of 2,000 blocks with the default policy: all of them for both, or split, with
links of several bandwidths. One row per fleet, one table per speed.
"""

from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from simulator import scenario, simulation

_WORKERS = 8
_KV_BLOCKS = 2_000
_COLUMNS = (
    "workers",
    "GB/s",
    "TTFT mean / p95, ms",
    "ITL p50 / p95 / p99, ms",
    "handover, mean / p95, ms",
    "E2E mean, ms",
    "good",
    "goodput per s",
    "reuse",
    "MJ",
)


def told(
    trace: pathlib.Path, prefill: int, gbytes_s: float, speed: float, policy: str, first_token: str
) -> scenario.Scenario:
    """The trace on eight workers, so many of which compute prompts; 0: all do both."""
    pools = [{"role": "prefill", "workers": prefill}, {"role": "decode", "workers": _WORKERS - prefill}]
    if not prefill:
        pools = [{"workers": _WORKERS}]
    models = [{"pools": [pool | {"kv_blocks": _KV_BLOCKS} for pool in pools]}]
    return scenario.parse(
        {
            "trace": {"path": str(trace), "format": "mooncake"},
            "speed": speed,
            "classes": [{"name": "default", "ttft_ms": 2_000, "itl_ms": 100}],
            "gateways": {"policy": policy},
            "fleet": {"kv_transfer_gbytes_s": gbytes_s, "first_token": first_token, "models": models},
        }
    )


def row(name: str, bandwidth: str, figures: dict[str, Any]) -> str:
    """One fleet."""
    handover = figures["transfers"]["handover_ms"]
    cells = [
        name,
        bandwidth,
        f"{figures['ttft_ms']['mean']:,.0f} / {figures['ttft_ms']['p95']:,.0f}",
        f"{figures['itl_ms']['p50']:.1f} / {figures['itl_ms']['p95']:.1f} / {figures['itl_ms']['p99']:.1f}",
        "" if handover["mean"] is None else f"{handover['mean']:,.0f} / {handover['p95']:,.0f}",
        f"{figures['e2e_ms']['mean']:,.0f}",
        f"{figures['good'] / figures['requests']:.3f}",
        f"{figures['goodput_rps']:.2f}",
        f"{figures['reuse_blocks']:.3f}",
        f"{figures['joules'] / 1e6:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speeds", default="1,3", help="how many times faster than recorded, separated by commas")
    parser.add_argument("--prefill", default="4,5,6", help="numbers of workers that compute prompts")
    parser.add_argument("--gbytes-s", default="50,5", help="bandwidths of a worker's link, 10^9 bytes per s")
    parser.add_argument("--policy", default="default", help="routing profile")
    parser.add_argument(
        "--first-token", default="prefill", help="role of the worker that answers with it: prefill or decode"
    )
    given = parser.parse_args(argv)
    folder = os.environ.get("PENSTOCK_TRACES")
    if folder is None:
        parser.error("PENSTOCK_TRACES has to name a folder of traces")
    trace = pathlib.Path(folder) / "mooncake_conversation.jsonl"
    for speed in (float(each) for each in given.speeds.split(",")):
        print(f"\n{speed:g}x\n")
        print("| " + " | ".join(_COLUMNS) + " |")
        print("|---" * len(_COLUMNS) + "|")
        figures = simulation.run(told(trace, 0, 50.0, speed, given.policy, given.first_token)).figures
        print(row(f"{_WORKERS} unified", "", figures), flush=True)
        for prefill in (int(each) for each in given.prefill.split(",")):
            for gbytes_s in (float(each) for each in given.gbytes_s.split(",")):
                figures = simulation.run(told(trace, prefill, gbytes_s, speed, given.policy, given.first_token)).figures
                print(row(f"{prefill} + {_WORKERS - prefill}", f"{gbytes_s:g}", figures), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

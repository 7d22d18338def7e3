"""Cost of the simulator: `python -m benchmarks.simulator [--requests N] [--workers 1,4,16,...]`.

One row per number of workers, at the same load per worker. The first columns are the engines and their events alone (each
request goes to the next worker in turn, with no gateway); the last are the whole simulation with the default policy.
CPU time, the least of some repetitions.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

from simulator import cluster, fleet, gateways, requests, scenario, simulation

_REPEATS = 3
# Requests per second and worker; about half of what one takes.
_RATE_RPS = 1.2


class Turns:
    """Stands in for a gateway: each worker in turn, and no account."""

    def __init__(self, names: Sequence[str]) -> None:
        self.name = "turns"
        self._names = names
        self._next = 0

    def route(self, call: gateways.Call) -> str:
        """The next worker."""
        call.attempts += 1
        call.gateway = self  # type: ignore[assignment]
        self._next = (self._next + 1) % len(self._names)
        return self._names[self._next]

    def first_byte(self, call: gateways.Call) -> None:
        """Nothing is kept of it."""

    def complete(self, call: gateways.Call, cached_tokens: int) -> None:
        """Nothing is kept of it."""


def told(workers: int, count: int) -> scenario.Scenario:
    """Conversations at the same load per worker, about `count` requests in all."""
    rate = workers * _RATE_RPS
    return scenario.parse(
        {
            "fleet": {
                "block_size": 512,
                "kv_events": False,
                "models": [{"pools": [{"workers": workers, "kv_blocks": 2000}]}],
            },
            "generated_block_tokens": 512,
            "generators": [
                {
                    "kind": "conversations",
                    "name": "load",
                    "rate_rps": rate,
                    "duration_s": count / rate,
                    "gap_s": {"mean": 20, "sigma": 0.5},
                }
            ],
        }
    )


def engines_alone(wanted: scenario.Scenario) -> tuple[float, int]:
    """CPU seconds and events of the engines, without gateways."""
    cut, asked = requests.cut(simulation.workload(wanted), 512)
    arrivals = list(asked)
    best, events = math.inf, 0
    for _ in range(_REPEATS):
        there = list(fleet.workers(wanted, 512))
        door: Any = Turns([each.id for each in there])
        played = cluster.Cluster(gateways.Clock(), arrivals, [door], ["sim"], 1)
        played.workers.update((each.id, each) for each in there)
        began = time.process_time()
        played.run()
        best = min(best, time.process_time() - began)
        events = played.events
    return best, events


def whole(wanted: scenario.Scenario) -> float:
    """CPU seconds of the whole simulation."""
    found = list(simulation.workload(wanted))
    began = time.process_time()
    simulation.run(wanted, found)
    return time.process_time() - began


def main() -> int:
    """Prints the table; 1 where an event costs more than the logarithm of the number of workers."""
    parser = argparse.ArgumentParser(description="Cost of the simulator against the number of workers.")
    parser.add_argument("--requests", type=int, default=20_000, help="requests of each row, about")
    parser.add_argument("--workers", default="1,4,16,64,256,1024", help="numbers of workers")
    given = parser.parse_args()
    print(f"{'workers':>8} {'events':>9} {'us/event':>9} {'to first':>9} {'1+log2/first':>13} {'all, us/request':>16}")
    first: float | None = None
    beyond = False
    for workers in (int(part) for part in given.workers.split(",")):
        wanted = told(workers, given.requests)
        spent_s, events = engines_alone(wanted)
        each_us = spent_s / events * 1e6
        if first is None:
            first, began = each_us, workers
        log = 1 + math.log2(workers / began)
        count = sum(1 for _ in simulation.workload(wanted))
        all_us = whole(wanted) / count * 1e6
        print(f"{workers:8d} {events:9d} {each_us:9.2f} {each_us / first:9.2f} {log:13.2f} {all_us:16.1f}", flush=True)
        beyond |= each_us / first > log
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    return int(beyond)


if __name__ == "__main__":
    sys.exit(main())

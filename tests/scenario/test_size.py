"""The simulator at 200,000 requests on 200 workers, in a process of its own: time and memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

WORKERS, REQUESTS = 200, 200_000
MOST_CPU_S = 180.0
MOST_BYTES = 4 * 1000**3
# The generator is told about how many conversations' turns there are; not all of them begin within its time.
ASKED = 212_000
PROGRAM = f"""
import json, resource, time
from benchmarks.simulator import __main__ as size
from simulator import simulation
told = size.told({WORKERS}, {ASKED})
began = time.process_time()
figures = simulation.run(told, list(simulation.workload(told))).figures
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([figures["requests"], figures["completed"], time.process_time() - began, used]))
"""


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_hundred_thousand_requests_take_three_minutes_and_4_gb() -> None:
    """Making the workload and playing it with the default policy, whole."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=800)
    requests, completed, cpu_s, used = json.loads(done.stdout.splitlines()[-1])
    print(f"{requests} requests: {cpu_s:.0f} CPU-s, {used / 1e9:.2f} GB")
    assert requests >= REQUESTS
    assert completed == requests
    assert cpu_s <= MOST_CPU_S
    assert used <= MOST_BYTES

"""The operator's cost over many deployments: `benchmarks.operator`, with its targets."""

from __future__ import annotations

import os
import pathlib

import pytest

from benchmarks.operator import __main__ as bench
from tests.cluster import binaries

# PENSTOCK_TEST_DEPLOYMENTS=1000 is the size that the targets are given for: 10 workers each, 8 minutes.
DEPLOYMENTS = int(os.environ.get("PENSTOCK_TEST_DEPLOYMENTS", "250"))
pytestmark = [pytest.mark.long, pytest.mark.timeout(240 + DEPLOYMENTS)]
# For 1,000 deployments: everything looked at, memory; cost grows with their number.
LISTED_S, MEMORY_MB, EMPTY_MB = 60.0, 1000.0, 100.0
EFFECT_S = 2.0


def test_what_many_deployments_cost(tmp_path: pathlib.Path) -> None:
    """A new process looks at everything in its time and memory, a change is soon a Pod, and in between only the Lease calls."""
    try:
        found = bench.run(bench.parse(["--deployments", str(DEPLOYMENTS), "--steady-s", "30"]), tmp_path)
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    share = DEPLOYMENTS / 1000
    assert found.listed_s < LISTED_S * share
    assert found.memory_mb < EMPTY_MB + (MEMORY_MB - EMPTY_MB) * share
    assert found.effect_s < EFFECT_S
    # A renewal of the Lease each second or less; nothing is asked for each deployment.
    assert found.calls_per_min < 150

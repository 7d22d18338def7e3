"""The simulator and simulated workers in real time agree on the same 500 requests of Mooncake's trace."""

from __future__ import annotations

import os
import pathlib

import pytest

from benchmarks.fidelity import simulated

FOLDER = os.environ.get("PENSTOCK_TRACES")
pytestmark = [
    pytest.mark.traces,
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.skipif(FOLDER is None, reason="PENSTOCK_TRACES does not name a folder of full traces"),
]


async def test_the_simulator_predicts_what_real_processes_do() -> None:
    """TTFT and E2E: medians within 5 %, p95 within 10 %, and the same reuse, behind a real gateway on eight workers.

    Under round robin, where a millisecond more or less sends no request elsewhere; `python -m benchmarks.fidelity simulated`
    has the default policy too.
    """
    assert FOLDER is not None
    setting = simulated.Setting(pathlib.Path(FOLDER) / "mooncake_conversation.jsonl")
    measured = (await simulated.measure(setting, ["round-robin"]))["round-robin"]
    predicted = simulated.simulate(setting, "round-robin")
    assert measured["completed"] == predicted["completed"] == setting.requests
    assert measured["prompt_tokens"] == predicted["prompt_tokens"]
    assert measured["output_tokens"] == predicted["output_tokens"]
    assert measured["reuse"] == pytest.approx(predicted["reuse"], abs=0.002)
    rows = simulated.rows("round-robin", measured, predicted)
    assert [row.cells() for row in rows if row.met is False] == []

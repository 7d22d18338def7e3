"""1,000 requests of Mooncake's conversation trace on 8 simulated workers: two gateways, a killed worker, a killed gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support import local_fleet

pytestmark = [pytest.mark.traces, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

FLEET = (
    "--workers", "8", "--profile", "h200-llama3.1-8b-fp8", "--engine-set", "kv_blocks=64000", "--engine-set", "speed=4",
)  # fmt: skip
# Eight times the trace's speed on engines of four times theirs: about half of what the fleet can do.
REPLAY = ("--format", "mooncake", "--limit", "1000", "--speed", "8", "--max-tokens-cap", "16")
# Answers long enough that every worker has streams open when it is killed.
LONG = (*REPLAY[:-1], "60")


def _trace() -> pathlib.Path:
    folder = os.environ.get("PENSTOCK_TRACES")
    if not folder:
        pytest.skip("needs the whole trace: PENSTOCK_TRACES=folder with mooncake_conversation.jsonl")
    return pathlib.Path(folder) / "mooncake_conversation.jsonl"


@contextlib.asynccontextmanager
async def _fleet(gateways: int) -> AsyncIterator[local_fleet.LocalFleet]:
    # Not tmp_path: Ray's unix sockets need a short path.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pmc-"))
    fleet = local_fleet.LocalFleet(folder, *FLEET, "--gateways", str(gateways))
    fleet.start()
    try:
        await fleet.ready()
        yield fleet
    finally:
        await asyncio.to_thread(fleet.stop, signal.SIGINT)
        shutil.rmtree(folder, ignore_errors=True)


async def _replay(fleet: local_fleet.LocalFleet, *options: str) -> dict[str, Any]:
    """Figures of a replay, whatever its exit status."""
    process = await asyncio.create_subprocess_exec(
        *local_fleet.PENSTOCK, "replay", str(_trace()), "--target", f"http://127.0.0.1:{fleet.port}", "--json", "-", *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert output, errors.decode()
    figures: dict[str, Any] = json.loads(output)
    return figures


async def _some_answered(fleet: local_fleet.LocalFleet) -> dict[str, Any]:
    """Waits until a part of the replay was answered; the fleet's status then."""
    async with asyncio.timeout(120):
        while True:
            status = await asyncio.to_thread(fleet.status)
            if sum(gateway["requests_total"] for gateway in status.get("gateways", [])) >= 300:
                return status
            await asyncio.sleep(0.1)


async def test_two_gateways_reuse_as_one() -> None:
    """Nothing is lost, and two gateways reuse within 0.03 of what one does on the same requests."""
    _trace()
    reuse = {}
    for gateways in (1, 2):
        async with _fleet(gateways) as fleet:
            figures = await _replay(fleet, *REPLAY)
        assert (figures["requests"], figures["completed"], figures["errors"]) == (1_000, 1_000, 0)
        reuse[gateways] = figures["reuse"]
    print(f"reuse with one gateway {reuse[1]:.4f}, with two {reuse[2]:.4f}")
    assert abs(reuse[1] - reuse[2]) <= 0.03
    # Without prefix routing over 8 workers it is below 0.1: the figure is routing's, not chance's.
    assert min(reuse.values()) > 0.13


async def test_killed_worker_loses_no_unanswered_request() -> None:
    """Of a worker killed under load, requests without a first byte are answered by others; the rest end in an error event."""
    _trace()
    async with _fleet(2) as fleet:
        before = fleet.workers()
        replay = asyncio.create_task(_replay(fleet, *LONG))
        status = await _some_answered(fleet)
        victim = max(status["workers"], key=lambda worker: worker["running"] or 0)
        os.kill(victim["pid"], signal.SIGKILL)
        figures = await replay
        await fleet.until(lambda: set(fleet.workers()) == set(before), 90)
    print(f"after a worker's death: errors {figures['errors_by_kind']}, tried again by the client {figures['retries']}")
    assert figures["completed"] + figures["errors"] == figures["requests"] == 1_000
    assert set(figures["errors_by_kind"]) <= {"error_event"}
    # The gateways tried again, not the client.
    assert figures["retries"] == 0


async def test_killed_gateway_breaks_only_its_connections() -> None:
    """A gateway's death breaks its open streams alone; replay tries the unanswered again, and reuse does not fall."""
    _trace()
    async with _fleet(2) as fleet:
        whole = await _replay(fleet, *LONG)
    async with _fleet(2) as fleet:
        replay = asyncio.create_task(_replay(fleet, *LONG))
        status = await _some_answered(fleet)
        os.kill(status["gateways"][0]["pid"], signal.SIGKILL)
        figures = await replay
    print(
        f"after a gateway's death: errors {figures['errors_by_kind']}, tried again by the client {figures['retries']}, "
        f"reuse {figures['reuse']:.4f}, undisturbed {whole['reuse']:.4f}"
    )
    assert figures["completed"] + figures["errors"] == 1_000
    # What had its first byte is cut; everything else was answered.
    assert set(figures["errors_by_kind"]) <= {"cut"}
    assert figures["errors"] < 100
    assert figures["reuse"] > whole["reuse"] - 0.03

"""Agent sessions on two real vLLM engines through two gateways: the default routing computes each prefix once."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import shutil
import signal
import tempfile
import urllib.request
from typing import Any

import pytest

from tests.support import local_fleet
from workers.adapters import registry
from workers.vllm import install

pytestmark = [pytest.mark.vllm, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

TURNS = 120
REPLAY = ("--format", "agent", "--limit", str(TURNS), "--in-order", "--max-tokens-cap", "8", "--retries", "0")


def _sessions() -> pathlib.Path:
    folder = os.environ.get("PENSTOCK_TRACES")
    if not folder:
        pytest.skip("needs the agent sessions: PENSTOCK_TRACES=folder with taubench/")
    if not install.is_installed():
        pytest.skip("needs a vLLM engine: make vllm")
    return pathlib.Path(folder) / "taubench"


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def _post(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, b"{}", method="POST"), timeout=30) as answer:
        answer.read()


def _computed(addresses: list[str]) -> float:
    """Prompt tokens that the engines have computed, by their own counters: asked of the cache less found there."""
    parse = registry.parser_for("vllm")
    total = 0.0
    for address in addresses:
        stats = parse(_get(f"http://{address}/metrics"))
        assert stats.prefix_queries_tokens_total is not None and stats.prefix_hits_tokens_total is not None
        total += stats.prefix_queries_tokens_total - stats.prefix_hits_tokens_total
    return total


async def _replay(fleet: local_fleet.LocalFleet, policy: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *local_fleet.PENSTOCK, "replay", str(_sessions()), "--target", f"http://127.0.0.1:{fleet.port}", "--json", "-",
        "--policy", policy, *REPLAY,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert output, errors.decode()
    figures: dict[str, Any] = json.loads(output)
    return figures


async def test_default_routing_computes_less_than_round_robin() -> None:
    """Every turn is answered, and the engines compute at most 0.65 of the tokens that they compute under round-robin."""
    _sessions()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pvl-"))
    fleet = local_fleet.LocalFleet(
        folder, "--engine", "vllm", "--workers", "2", "--gateways", "2", "--engine-set", "max_model_len=8192", "--engine-set", "kv_cache_bytes=134217728",
        "--ready-timeout", "400",
    )  # fmt: skip
    fleet.start()
    try:
        await fleet.ready(420)
        addresses = [worker["address"] for worker in (await asyncio.to_thread(fleet.status))["workers"]]
        assert len(addresses) == 2
        computed = {}
        for policy in ("default", "round-robin"):
            for address in addresses:
                await asyncio.to_thread(_post, f"http://{address}/reset_prefix_cache")
            before = await asyncio.to_thread(_computed, addresses)
            figures = await _replay(fleet, policy)
            computed[policy] = await asyncio.to_thread(_computed, addresses) - before
            assert (figures["completed"], figures["errors"]) == (TURNS, 0), figures["errors_by_kind"]
            assert len(figures["endpoints"]) == 2
        # vLLM has no metric for them; its KV events tell.
        await fleet.until(lambda: all(worker["cached_blocks"] for worker in fleet.status()["workers"]), 15)
    finally:
        await asyncio.to_thread(fleet.stop, signal.SIGINT)
        shutil.rmtree(folder, ignore_errors=True)
    ratio = computed["default"] / computed["round-robin"]
    print(f"computed tokens: default {computed['default']:.0f}, round-robin {computed['round-robin']:.0f}: {ratio:.3f}")
    assert ratio <= 0.65

"""Long answers of very unequal lengths on small KV caches: who is found running is mostly a long one, which the default knows."""

from __future__ import annotations

from typing import Any

import pytest

from simulator import scenario, simulation


def figures(policy: str, rate_rps: float) -> dict[str, Any]:
    """Four workers of 64,000 tokens; answers of 1,500 tokens on average, one in twenty over 5,500."""
    told = scenario.parse(
        {
            "fleet": {
                "models": [{"profile": "h200-llama3.1-8b-fp8", "pools": [{"workers": 4, "kv_blocks": 4_000}]}],
                "block_size": 16,
            },
            "gateways": {"policy": policy},
            "generators": [
                {
                    "kind": "clients",
                    "name": "reasoning",
                    "clients": 20,
                    "rate_rps": rate_rps,
                    "duration_s": 240,
                    "cv": 1.5,
                    "input": {"mean": 600},
                    "output": {"mean": 1_500, "sigma": 1.3},
                }
            ],
        }
    )
    return simulation.run(told).figures


@pytest.mark.parametrize("rate_rps", [4, 6])
def test_memory_is_shared_by_what_runs_not_by_how_many(rate_rps: float) -> None:
    """Fewer sequences are preempted than where prompts or requests are counted, and first tokens come sooner."""
    ours, by_prompts, by_requests = (figures(name, rate_rps) for name in ("default", "llm-d", "least-request"))
    assert ours["completed"] == by_prompts["completed"] == by_requests["completed"]
    assert ours["preemptions"] < 0.6 * min(by_prompts["preemptions"], by_requests["preemptions"])
    assert ours["ttft_ms"]["mean"] < 0.8 * min(by_prompts["ttft_ms"]["mean"], by_requests["ttft_ms"]["mean"])

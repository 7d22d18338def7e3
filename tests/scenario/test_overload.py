"""More conversations than the workers can serve: what waits in the gateway is served better than what engines queue."""

from __future__ import annotations

from typing import Any

import pytest

from simulator import scenario, simulation


def figures(kv_share: float, gateways: int = 1, policy: str = "default") -> dict[str, Any]:
    """Four workers of 1,500 blocks under twice the load that they can bear."""
    told = scenario.parse(
        {
            "fleet": {"models": [{"profile": "h200-llama3.1-8b-fp8", "pools": [{"workers": 4, "kv_blocks": 1_500}]}]},
            "gateways": {"policy": policy, "kv_share": kv_share, "count": gateways},
            "generators": [
                {
                    "kind": "conversations",
                    "name": "chats",
                    "rate_rps": 18,
                    "duration_s": 120,
                    "turns": 4,
                    "gap_s": {"mean": 30},
                    "input": {"mean": 9_000},
                }
            ],
        }
    )
    return simulation.run(told).figures


@pytest.fixture(scope="module")
def unheld() -> dict[str, Any]:
    """Everything goes to the engines at once."""
    return figures(0)


@pytest.mark.parametrize("gateways", [1, 4])
def test_holding_serves_more_and_sooner(unheld: dict[str, Any], gateways: int) -> None:
    """Bounding the KV in flight keeps cached prefixes: more is reused, and requests are answered sooner; none is lost."""
    held = figures(1.0, gateways)
    assert (held["completed"], held["errors_by_kind"]) == (unheld["completed"], unheld["errors_by_kind"])
    assert set(held["errors_by_kind"]) == {"http_400"}  # prompts that no engine here holds
    assert held["ttft_ms"]["mean"] < 0.7 * unheld["ttft_ms"]["mean"]
    assert held["e2e_ms"]["mean"] < 0.8 * unheld["e2e_ms"]["mean"]
    assert held["reuse_blocks"] > unheld["reuse_blocks"]


def test_other_profiles_hold_nothing() -> None:
    """The rules of other systems stay what they are, whatever the share."""
    assert figures(1.0, policy="llm-d") == figures(0, policy="llm-d")

"""The workloads of the comparison: what arrives, at which fleet."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from simulator import scenario

# Targets that goodput counts by: an interactive chat.
SLO = {"name": "chat", "ttft_ms": 2_000, "itl_ms": 100}


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """One row group of the table. `told` is a scenario without its policy; its trace is relative to the traces' folder."""

    name: str
    told: dict[str, Any]
    speeds: tuple[float, ...] = (1.0,)

    def scenarios(self, traces: pathlib.Path | None, gateways: int) -> list[tuple[str, scenario.Scenario]]:
        """A scenario for each speed, with its name. Raises FileNotFoundError where its trace is not there."""
        told = self.told | {"classes": [SLO], "gateways": {"count": gateways}}
        if "trace" in told:
            path = None if traces is None else traces / told["trace"]["path"]
            if path is None or not path.exists():
                raise FileNotFoundError(f"{self.name} needs {told['trace']['path']} in the folder of traces")
            told["trace"] = told["trace"] | {"path": str(path)}
        return [(f"{self.name} {speed:g}x", scenario.parse(told | {"speed": speed})) for speed in self.speeds]


def _fleet(workers: int, kv_blocks: int, profile: str = "h200-llama3.1-8b-fp8", **more: Any) -> dict[str, Any]:
    return {"models": [{"profile": profile, "pools": [{"workers": workers, "kv_blocks": kv_blocks, **more}]}]}


CONVERSATION = {"path": "mooncake_conversation.jsonl", "format": "mooncake"}
WORKLOADS = (
    Workload("conversation-8x2000", {"trace": CONVERSATION, "fleet": _fleet(8, 2_000)}, (1.0, 3.0, 4.0, 5.0)),
    Workload("conversation-16x500", {"trace": CONVERSATION, "fleet": _fleet(16, 500)}, (1.0, 5.0)),
    # 25 agents that call tools, turn by turn, on large models; caches hold a few of them. Sessions begin at other times
    # for each seed: one order of them says little.
    Workload(
        "agents",
        {
            "trace": {"path": "taubench", "format": "agent", "reading": {"session_shift_s": 60}},
            "fleet": _fleet(3, 300, "a100-llama2-70b-tp4"),
        },
        (2.0, 8.0),
    ),
    # Ten minutes of 73 clients with bursts of their own: long answers, nothing shared.
    Workload(
        "servegen",
        {
            "trace": {
                "path": "servegen_deepseek_r1",
                "format": "servegen",
                "reading": {"start_s": 43_200, "duration_s": 600},
            },
            "fleet": _fleet(8, 16_384),
        },
        (1.0, 2.0),
    ),
    # Completions of code in bursts of up to 25 times the mean rate: short answers, nothing known of what is shared.
    Workload(
        "azure-code",
        {"trace": {"path": "azure_2023_code.csv", "format": "azure"}, "fleet": _fleet(4, 9_375)},
        (1.0, 4.0),
    ),
    # Groups of prompts with a system prompt each, which together fill three quarters of all caches.
    Workload(
        "shared-prefix",
        {
            "generators": [
                {
                    "kind": "prefix-groups",
                    "name": "groups",
                    "groups": 150,
                    "prefix_tokens": 6_000,
                    "rate_rps": 20,
                    "duration_s": 240,
                    "input": {"mean": 1_200},
                    "output": {"mean": 250},
                },
            ],
            "fleet": _fleet(8, 9_375),
        },
        (1.0, 2.0, 3.0),
    ),
    # Tenants of many kinds at once: chats with system prompts, documents in several turns, short completions in bursts.
    Workload(
        "tenants",
        {
            "generators": [
                {
                    "kind": "clients",
                    "name": "assistants",
                    "clients": 40,
                    "rate_rps": 14,
                    "duration_s": 240,
                    "cv": 2.5,
                    "system_tokens": 1_500,
                    "input": {"mean": 900},
                    "output": {"mean": 220},
                },
                {
                    "kind": "conversations",
                    "name": "documents",
                    "rate_rps": 4,
                    "duration_s": 240,
                    "turns": 4,
                    "gap_s": {"mean": 40},
                    "input": {"mean": 9_000},
                },
                {
                    "kind": "clients",
                    "name": "completions",
                    "clients": 10,
                    "rate_rps": 20,
                    "duration_s": 240,
                    "cv": 4.0,
                    "law": "weibull",
                    "input": {"mean": 400},
                    "output": {"mean": 40},
                },
            ],
            "fleet": _fleet(8, 16_384),
        },
        (1.0, 2.0),
    ),
)

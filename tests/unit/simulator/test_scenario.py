"""Scenarios are strict, and their errors name the key, the value and what is allowed."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from simulator import scenario

TRACE = {"path": "t.jsonl", "format": "mooncake"}
CLIENTS = {"kind": "clients", "name": "a", "rate_rps": 1, "duration_s": 1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sped": 2}, "sped: Extra inputs are not permitted"),
        ({"speed": 0}, r"speed is '0'.*greater than 0"),
        ({"trace": {"path": "t", "format": "csv"}}, r"trace.format is 'csv'.*known are mooncake"),
        ({"gateways": {"policy": "best"}}, r"gateways.policy is 'best'.*default"),
        ({"fleet": {"models": [{"profile": "h900"}]}}, r"fleet.models.0.profile is 'h900'.*h200-llama3.1-8b-fp8"),
        ({"faults": [{"kind": "kill", "at_s": 1, "worker": 8}]}, "faults.0.worker is 8; there are workers 0 to 7"),
        ({"faults": [{"kind": "partition", "at_s": 1, "for_s": 1, "gateway": 1}]}, "there are gateways 0 to 0"),
        ({"faults": [{"kind": "flood", "at_s": 1}]}, "faults.0.*'kill'"),
        ({"trace": TRACE, "generators": [CLIENTS]}, "not both"),
        ({"generators": [CLIENTS | {"slo_class": "x"}]}, "generators.0.slo_class is 'x'; there are default"),
        ({"classes": [{"name": "a"}, {"name": "a"}]}, "classes: each name may appear once"),
    ],
)
def test_a_wrong_scenario_is_explained(values: dict[str, Any], message: str) -> None:
    """One line says what is wrong and where."""
    with pytest.raises(scenario.ScenarioError, match=message):
        scenario.parse(values)


def test_a_trace_is_found_beside_its_scenario(tmp_path: pathlib.Path) -> None:
    """Relative paths begin at the scenario's file."""
    path = tmp_path / "s.yaml"
    path.write_text("trace: {path: t.jsonl, format: mooncake}\n")
    told = scenario.load(path)
    assert told.trace is not None
    assert told.trace.path == tmp_path / "t.jsonl"


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "speed: fast\n"])
def test_a_file_that_is_no_scenario_is_named(tmp_path: pathlib.Path, text: str) -> None:
    """The message begins with the file."""
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(scenario.ScenarioError, match="s.yaml"):
        scenario.load(path)

"""Scenarios are strict, and their errors name the key, the value and what is allowed."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from penstock import perf
from simulator import scenario

TRACE = {"path": "t.jsonl", "format": "mooncake"}
P, D = {"role": "prefill", "workers": 1}, {"role": "decode", "workers": 1}
CLIENTS = {"kind": "clients", "name": "a", "rate_rps": 1, "duration_s": 1}


def pools(*given: dict[str, Any]) -> dict[str, Any]:
    """A scenario of one model with these pools."""
    return {"fleet": {"models": [{"pools": list(given)}]}}


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
        (pools({"role": "encode"}), "fleet.models.0.pools.0.role is 'encode'.*'unified', 'prefill' or 'decode'"),
        (pools(P), r"fleet.models.0.*pools: the roles are prefill; .* both of role prefill and of role decode"),
        (pools(D), r"fleet.models.0.*pools: the roles are decode; .* both of role prefill and of role decode"),
        (pools(P, D, {"workers": 1}), r"pools: the roles are decode, prefill, unified; .*role unified, or both"),
        (
            pools(P, D | {"profile": "h100-qwen3-32b-tp2"}),
            r"pools: their KV differs: 131072 .*h200-llama3.1-8b-fp8.*262144 .*h100-qwen3-32b-tp2",
        ),
        (
            pools({"kv_transfer_gbytes_s": 5}),
            "pools.0.kv_transfer_gbytes_s: only pools of role prefill and decode send KV",
        ),
        (
            pools(P, D | {"kv_transfer_gbytes_s": 0}),
            "fleet.models.0.pools.1.kv_transfer_gbytes_s is '0'.*greater than 0",
        ),
        (
            {"faults": [{"kind": "slow-link", "at_s": 1, "worker": 2, "factor": 2, "for_s": 1}]},
            "faults.0.worker is 2, of role unified; only those of role prefill and decode have a link",
        ),
    ],
)
def test_a_wrong_scenario_is_explained(values: dict[str, Any], message: str) -> None:
    """One line says what is wrong and where."""
    with pytest.raises(scenario.ScenarioError, match=message):
        scenario.parse(values)


def test_a_profile_that_does_not_tell_the_size_of_its_kv_needs_help(tmp_path: pathlib.Path) -> None:
    """One that was measured somewhere else: the message says where to give it, and with it the scenario is whole."""
    profile = perf.load_profile("cpu-tiny").model_copy(update={"kv_bytes_per_token": None})
    path = tmp_path / "mine.json"
    path.write_text(profile.model_dump_json())
    values: dict[str, Any] = {"name": "m", "profile": str(path), "pools": [P, D]}
    with pytest.raises(
        scenario.ScenarioError, match=r"kv_bytes_per_token: profile .*mine.json does not tell it; give it here"
    ):
        scenario.parse({"fleet": {"models": [values]}})
    scenario.parse({"fleet": {"models": [values | {"kv_bytes_per_token": 1_000}]}})


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

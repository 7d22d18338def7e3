"""The chart's alert rules, evaluated by Prometheus' own `promtool`: each fires when it should, and not before."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from tests.support import charts, programs

# Samples of half an hour, two a minute.
STEP = "30s"
STEADY_0, STEADY_1 = "0x60", "1x60"
GATEWAY = 'penstock_gateway_degraded{namespace="serving",pod="gw-0",mode="%s"}'
LEADING = 'penstock_operator_leading{namespace="serving",pod="%s"}'
ANSWERS = 'penstock_gateway_answers_total{namespace="serving",pod="gw-0",model="m",code="%s"}'
REFUSALS = 'penstock_gateway_refusals_total{namespace="serving",pod="gw-0",reason="%s"}'
CUT = 'penstock_gateway_cut_streams_total{namespace="serving",pod="gw-0"}'
NODE = 'penstock_node_degraded{namespace="serving",pod="agent-0",node="n0",mode="%s"}'
SLOWED = 'penstock_node_slowed{namespace="serving",pod="agent-0",node="n0",device="0",reason="%s"}'
OPERATOR = 'penstock_operator_degraded{namespace="serving",pod="op-0",mode="%s"}'
PASSES = 'penstock_operator_reconciles_total{namespace="serving",pod="op-0",kind="ModelDeployment",result="%s"}'

# An installation that is well: a request a second, of 1,000 one that an engine failed.
WELL = {
    **{GATEWAY % mode: STEADY_0 for mode in ("no-ready-endpoint", "registry-lost", "index-gap", "saturated")},
    LEADING % "op-0": STEADY_1,
    LEADING % "op-1": STEADY_0,
    ANSWERS % 200: "0+30x60",
    ANSWERS % 502: "0+0.03x60",
    ANSWERS % 499: "0+10x60",
    REFUSALS % "overloaded": STEADY_0,
    REFUSALS % "bad_request": "0+10x60",
    # One each five minutes.
    REFUSALS % "upstream_failed": "0x9 1x9 2x9 3x9 4x9 5x9",
    REFUSALS % "no_ready_endpoint": STEADY_0,
    CUT: "3x60",
    NODE % "registry-lost": STEADY_0,
    NODE % "sampling": STEADY_0,
    SLOWED % "power_brake": STEADY_0,
    SLOWED % "power_cap": STEADY_1,
    OPERATOR % "redis-lost": STEADY_0,
    PASSES % "done": "0+10x60",
    PASSES % "failed": STEADY_0,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is otherwise than well, from 5:00 on unless it is missing from the start, and the alert that it raises."""

    alert: str
    changed: Mapping[str, str | None]
    quiet_at: str
    fires_at: str
    labels: Mapping[str, str]
    summary: str


# Ten samples, the last at 4:30, and then.
FROM_5M = "0x9 1x50"
SERVING = {"namespace": "serving"}
CASES = [
    Case(
        "PenstockNoGatewaySeen",
        {GATEWAY % mode: None for mode in ("no-ready-endpoint", "registry-lost", "index-gap", "saturated")},
        "4m30s",
        "5m",
        {},
        "Prometheus reads no gateway; the other alerts of gateways cannot fire",
    ),
    Case(
        "PenstockNoEndpoint",
        {GATEWAY % "no-ready-endpoint": FROM_5M},
        "6m30s",
        "7m",
        {**SERVING, "pod": "gw-0"},
        "Gateway gw-0 has no worker to send requests to",
    ),
    Case(
        "PenstockRegistryLost",
        {GATEWAY % "registry-lost": FROM_5M},
        "5m30s",
        "6m",
        SERVING,
        "Gateways do not reach Redis; they route over the workers that they last knew",
    ),
    Case(
        "PenstockGatewayDegraded",
        {GATEWAY % "index-gap": FROM_5M},
        "9m30s",
        "10m",
        {**SERVING, "pod": "gw-0", "mode": "index-gap"},
        "Gateway gw-0 is degraded, index-gap",
    ),
    Case(
        "PenstockErrors",
        {ANSWERS % 502: "0x9 0+3x50"},
        "9m30s",
        "16m",
        {**SERVING, "model": "m"},
        "More than 1 % of the answers of m are errors of engines",
    ),
    Case(
        "PenstockNoWorker",
        {REFUSALS % "no_ready_endpoint": "0x9 1+1x50"},
        "9m30s",
        "11m",
        SERVING,
        "Gateways turn requests away; the model that they ask for has no worker",
    ),
    Case(
        "PenstockUnreached",
        {REFUSALS % "upstream_timeout": "0x9 3+3x50"},
        "9m30s",
        "16m",
        SERVING,
        "For more than 1 % of the requests no worker answered",
    ),
    Case(
        "PenstockOverloaded",
        {REFUSALS % "overloaded": "0x9 1+1x50"},
        "9m30s",
        "11m",
        SERVING,
        "Gateways refuse requests for overload",
    ),
    Case("PenstockCutStreams", {CUT: "3x9 4x50"}, "4m30s", "6m", SERVING, "Answers that had begun were cut"),
    Case(
        "PenstockNodeDegraded",
        {NODE % "sampling": FROM_5M},
        "9m30s",
        "10m",
        {**SERVING, "node": "n0", "mode": "sampling"},
        "The agent of node n0 is degraded, sampling",
    ),
    Case(
        "PenstockGpuPowerBrake",
        {SLOWED % "power_brake": FROM_5M},
        "4m30s",
        "5m",
        {**SERVING, "node": "n0", "device": "0"},
        "GPU 0 of node n0 is slowed by its power brake",
    ),
    Case(
        "PenstockNoOperatorSeen",
        {LEADING % "op-0": None, LEADING % "op-1": None},
        "4m30s",
        "5m",
        {},
        "Prometheus reads no operator; workers serve, but perhaps nobody scales or replaces them",
    ),
    Case(
        "PenstockNoOperatorLeads",
        {LEADING % "op-0": "1x9 0x50"},
        "6m30s",
        "7m",
        SERVING,
        "No operator leads; workers serve, but nobody scales or replaces them",
    ),
    Case(
        "PenstockOperatorDegraded",
        {OPERATOR % "redis-lost": FROM_5M},
        "9m30s",
        "10m",
        {**SERVING, "mode": "redis-lost"},
        "The operator is degraded, redis-lost",
    ),
    Case(
        "PenstockPassesFail",
        {PASSES % "failed": "0x9 1+1x50"},
        "14m30s",
        "16m",
        {**SERVING, "kind": "ModelDeployment"},
        "Passes over ModelDeployment objects fail",
    ),
]


@pytest.fixture(scope="module")
def promtool() -> pathlib.Path:
    """Prometheus' checker of rules."""
    return programs.needed("promtool").path("promtool")


@pytest.fixture(scope="module")
def rules() -> Mapping[str, Any]:
    """What the chart gives the Prometheus operator."""
    (found,) = (each for each in charts.template("monitoring.rules.enabled=true") if each["kind"] == "PrometheusRule")
    return found["spec"]  # type: ignore[no-any-return]


def severities(rules: Mapping[str, Any]) -> dict[str, str]:
    """Of each alert."""
    return {rule["alert"]: rule["labels"]["severity"] for group in rules["groups"] for rule in group["rules"]}


def raised(case: Case, rules: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The alert of a case, as promtool compares it."""
    actions = {rule["alert"]: rule["annotations"]["action"] for group in rules["groups"] for rule in group["rules"]}
    labels = {**case.labels, "severity": severities(rules)[case.alert]}
    return [
        {"exp_labels": labels, "exp_annotations": {"summary": case.summary, "action": actions[case.alert]}},
    ]


def test_every_alert_has_a_case(rules: Mapping[str, Any]) -> None:
    """Once each."""
    assert sorted(case.alert for case in CASES) == sorted(severities(rules))


def test_each_alert_fires_for_its_cause_alone(
    rules: Mapping[str, Any], promtool: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Nothing fires where all is well; for each cause its alert does when its time has passed, and no other."""

    def series(changed: Mapping[str, str | None]) -> list[dict[str, str]]:
        return [{"series": name, "values": values} for name, values in {**WELL, **changed}.items() if values]

    tests = []
    for case in CASES:
        checks = [{"eval_time": case.quiet_at, "alertname": each, "exp_alerts": []} for each in severities(rules)]
        checks += [
            {
                "eval_time": case.fires_at,
                "alertname": each,
                "exp_alerts": raised(case, rules) if each == case.alert else [],
            }
            for each in severities(rules)
        ]
        tests.append(
            {"name": case.alert, "interval": STEP, "input_series": series(case.changed), "alert_rule_test": checks}
        )
    quiet = [
        {"eval_time": at, "alertname": each, "exp_alerts": []} for at in ("1m", "29m") for each in severities(rules)
    ]
    tests.append({"name": "well", "interval": STEP, "input_series": series({}), "alert_rule_test": quiet})
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(dict(rules)))
    told = {"rule_files": ["rules.yaml"], "evaluation_interval": STEP, "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(told))
    done = subprocess.run(
        [promtool, "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

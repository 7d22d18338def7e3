"""Dashboards and alerts speak of metrics that there are."""

from __future__ import annotations

import asyncio
import json
import pathlib
import re

import prometheus_client
import pytest
import yaml

from operators import metrics as operator_metrics
from penstock.runtime import clock as clocks
from penstock.runtime import degraded as runtime_degraded
from power import metrics as node_metrics
from power import sampling
from router.dataplane import fleet, gateway
from router.index import prefix
from router.policy import profiles
from router.server import degraded, metrics

CHART = pathlib.Path(__file__).parents[3] / "helm" / "penstock"
_METRIC = re.compile(r"\bpenstock_\w+")


def families() -> set[str]:
    """Every name that /metrics of a gateway, an operator and a node's agent prints, with what histograms add."""
    loop = asyncio.new_event_loop()
    try:
        endpoints = fleet.Fleet(prefix.PrefixIndex(1 << 20), lambda record: pytest.fail("no endpoint is added"))
        owner = gateway.Gateway(loop, endpoints, profiles.by_name("default"), gateway.Limits(), "gw")
        text = metrics.render(owner, degraded.Degraded(clocks.SystemClock())).decode()
    finally:
        loop.close()
    text += prometheus_client.generate_latest(operator_metrics.Metrics().registry).decode()
    text += prometheus_client.generate_latest(node_registry()).decode()
    typed = dict(re.findall(r"^# TYPE (\S+) (\S+)", text, re.MULTILINE))
    assert len(typed) > 15
    return {
        name + suffix for name, kind in typed.items() for suffix in (("_bucket",) if kind == "histogram" else ("",))
    }


def node_registry() -> prometheus_client.CollectorRegistry:
    """The metrics of a node's agent that has looked at nothing yet."""
    clock = clocks.SystemClock()
    health = runtime_degraded.Degraded(clock, "node", sampling.MODES)
    found = prometheus_client.CollectorRegistry()
    found.register(node_metrics.Collector("n", sampling.Sampler([], clock, health, interval_s=1.0), health))
    return found


def alerts() -> list[dict[str, str]]:
    """The alert rules."""
    texts = [(CHART / "files" / name).read_text() for name in ("alerts.yaml", "alerts-operator.yaml")]
    groups = yaml.safe_load("".join(texts))["groups"]
    rules: list[dict[str, str]] = [rule for group in groups for rule in group["rules"]]
    return rules


def test_dashboards_ask_for_metrics_that_there_are() -> None:
    """Each expression of each panel names metrics that a gateway has."""
    board = json.loads((CHART / "dashboards" / "penstock.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(asked) > 15
    for expression in asked:
        names = set(_METRIC.findall(expression))
        assert names and names <= families(), expression


def test_alerts_ask_for_metrics_that_there_are() -> None:
    """Each alert names metrics and modes that a gateway has, says what is wrong and what to do."""
    for rule in alerts():
        names = set(_METRIC.findall(rule["expr"]))
        assert names and names <= families(), rule["alert"]
        modes = set(re.findall(r'mode!?[=~]+"([^"]+)"', rule["expr"]))
        assert {mode for each in modes for mode in each.split("|")} <= {*degraded.MODES, *sampling.MODES}, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}  # type: ignore[arg-type]

"""The page on nodes names what the agent serves."""

from __future__ import annotations

import pathlib
import re

import prometheus_client

from penstock.runtime import clock as clocks
from penstock.runtime import degraded
from power import metrics, sampling
from power.meters import nvml

PAGE = (pathlib.Path(__file__).parents[3] / "docs" / "nodes.md").read_text()


def test_every_metric_is_on_the_page_and_no_other() -> None:
    """Names in the table are those that `/metrics` prints; so are the reasons for which a GPU is slowed."""
    clock = clocks.SystemClock()
    health = degraded.Degraded(clock, "node", sampling.MODES)
    found = prometheus_client.CollectorRegistry()
    found.register(metrics.Collector("n", sampling.Sampler([], clock, health, interval_s=1.0), health))
    printed = re.findall(r"^# TYPE (\S+)", prometheus_client.generate_latest(found).decode(), re.MULTILINE)
    assert len(printed) > 8
    assert sorted(re.findall(r"^\| `(penstock_node_[a-z_]+)`", PAGE, re.MULTILINE)) == sorted(printed)
    assert ", ".join(f"`{each}`" for each in nvml.SLOWED_BY) in PAGE

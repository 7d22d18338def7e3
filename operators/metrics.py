"""The operator's own metrics."""

from __future__ import annotations

import prometheus_client

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What an operator counts."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry(auto_describe=False)
        own = self.registry
        self.passes = prometheus_client.Counter(
            "penstock_operator_reconciles", "Passes over objects", ["kind", "result"], registry=own
        )
        self.pass_s = prometheus_client.Histogram(
            "penstock_operator_reconcile_seconds", "Time of a pass", ["kind"], buckets=_BUCKETS_S, registry=own
        )
        self.wait_s = prometheus_client.Histogram(
            "penstock_operator_queue_seconds", "Time from due to begun", buckets=_BUCKETS_S, registry=own
        )
        self.depth = prometheus_client.Gauge("penstock_operator_queue_depth", "Objects that are due", registry=own)
        self.commands = prometheus_client.Counter(
            "penstock_operator_commands", "What was done to workers", ["command"], registry=own
        )
        self.calls = prometheus_client.Counter(
            "penstock_operator_api_calls",
            "Answers of the API server; code 0: none came",
            ["verb", "code"],
            registry=own,
        )
        self.leading = prometheus_client.Gauge("penstock_operator_leading", "Whether this operator leads", registry=own)
        self.degraded = prometheus_client.Gauge(
            "penstock_operator_degraded", "Degraded modes that hold now", ["mode"], registry=own
        )
        self.resync_s = prometheus_client.Gauge(
            "penstock_operator_resync_seconds", "Time of the last pass over everything", registry=own
        )

    def called(self, verb: str, code: int) -> None:
        """One answer of the API server."""
        self.calls.labels(verb, str(code)).inc()

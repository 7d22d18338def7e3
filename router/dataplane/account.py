"""What the gateway has done, as plain numbers: counting must cost less than a microsecond per request."""

from __future__ import annotations

from bisect import bisect_left

LATENCY_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
GAP_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)


class Histogram:
    """Counts per bucket and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Adds one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class ModelAccount:
    """Account of one model."""

    __slots__ = (
        "cached_tokens",
        "completion_tokens",
        "e2e_s",
        "gap_s",
        "predicted_cached_tokens",
        "prompt_tokens",
        "ttft_s",
    )

    def __init__(self) -> None:
        self.ttft_s = Histogram(LATENCY_BOUNDS_S)
        self.e2e_s = Histogram(LATENCY_BOUNDS_S)
        # Mean gap between the chunks of a stream.
        self.gap_s = Histogram(GAP_BOUNDS_S)
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.predicted_cached_tokens = 0


class Account:
    """Account of a gateway since its start."""

    def __init__(self) -> None:
        # (model, status) -> number of answers; status 499 is a client that left.
        self.answers: dict[tuple[str, int], int] = {}
        self.models: dict[str, ModelAccount] = {}
        # Reason -> number of requests that the gateway answered with an error of its own.
        self.refusals: dict[str, int] = {}
        # Reason -> number of attempts that were made again elsewhere.
        self.retries: dict[str, int] = {}
        self.cut_streams = 0
        self.ejections = 0
        self.readmissions = 0
        # What came and went between gateways.
        self.batches_sent = 0
        self.batches_taken = 0
        self.kv_reports_taken = 0
        self.gaps = 0
        self.snapshots_taken = 0
        self.requests = 0

    def model(self, name: str) -> ModelAccount:
        """The account of a model that is served (so the number of them is bounded)."""
        known = self.models.get(name)
        if known is None:
            known = self.models[name] = ModelAccount()
        return known

    def answered(self, model: str, status: int) -> None:
        """Counts one answer."""
        key = (model, status)
        self.answers[key] = self.answers.get(key, 0) + 1

    def retried(self, reason: str) -> None:
        """Counts one attempt that is made again."""
        self.retries[reason] = self.retries.get(reason, 0) + 1

    def refused(self, reason: str) -> None:
        """Counts one answer of the gateway's own."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

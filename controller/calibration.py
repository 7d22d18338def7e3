"""What workers' own metrics tell of their speed, while they serve: feeds `penstock.perf.online`, and shows its figures.

Two readings of one worker, a scrape apart, tell something exact in two cases only, and nothing is made of the others:

- No prompt was begun between them, and the same sequences ran in both: the mean time between tokens is that of a decode step.
- One request began and got its first token, while nothing waited and nothing else ran: its time to the first token.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from penstock.api import types
from penstock.perf import online
from workers.adapters import stats

PREFIX = "penstock_perf_"
_LEAST_TOKENS = 10
_COEFFICIENTS = ("base_ms", "ms_per_token", "ms_per_token2", "step_base_ms", "ms_per_seq", "ms_per_kv_token")


class Calibrations:
    """One calibrator per worker and incarnation. A collector for prometheus_client."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[int, online.Calibrator]] = {}
        # By worker what was found good enough: it is looked at again when the speed is another, or more was measured.
        self._judged: dict[str, tuple[int, types.EngineSpeed]] = {}

    def take(self, worker: str, incarnation: int, before: stats.EngineStats, after: stats.EngineStats) -> None:
        """Two readings of one engine, one after the other."""
        known = self._of.get(worker)
        if known is None or known[0] != incarnation:
            known = self._of[worker] = (incarnation, online.Calibrator())
        learn(known[1], before, after)

    def keep(self, workers: set[str]) -> None:
        """Forget all others."""
        self._of = {name: known for name, known in self._of.items() if name in workers}
        self._judged = {name: known for name, known in self._judged.items() if name in workers}

    def improved(self, record: types.WorkerRecord) -> types.EngineSpeed | None:
        """A speed that predicts the worker clearly better than its record's; None where none is known."""
        known = self._of.get(record.id)
        if known is None or record.speed is None or known[0] != record.incarnation:
            return None
        judged = (known[1].observations, record.speed)
        if self._judged.get(record.id) == judged:
            return None
        found = known[1].improved(record.speed)
        if found is None:
            self._judged[record.id] = judged
        return found

    def calibration(self, worker: str) -> online.Calibration | None:
        """What is known of a worker; None of one that was never read twice."""
        known = self._of.get(worker)
        return None if known is None else known[1].calibration

    def collect(self) -> Iterator[Metric]:
        """Families of the metrics; a figure that is not known has no sample."""
        error = GaugeMetricFamily(
            PREFIX + "error_ratio",
            "Mean relative error of predictions made before measuring",
            labels=("worker", "part"),
        )
        seen = CounterMetricFamily(
            PREFIX + "observations", "Measurements taken in or rejected", labels=("worker", "part", "outcome")
        )
        again = CounterMetricFamily(PREFIX + "restarts", "Times that an engine had changed", labels=("worker", "part"))
        value = GaugeMetricFamily(
            PREFIX + "coefficient_ms", "Learned coefficients of the speed", labels=("worker", "coefficient")
        )
        # A copy: the scraper goes on in its own thread.
        for worker, (_, calibrator) in list(self._of.items()):
            found = calibrator.calibration
            for part, figures in (("prefill", found.prefill), ("step", found.step)):
                if figures.error is not None:
                    error.add_metric((worker, part), figures.error)
                seen.add_metric((worker, part, "accepted"), figures.accepted)
                seen.add_metric((worker, part, "rejected"), figures.rejected)
                again.add_metric((worker, part), figures.restarts)
            for name in _COEFFICIENTS:
                if (coefficient := getattr(found, name)) is not None:
                    value.add_metric((worker, name), coefficient)
        yield from (error, seen, again, value)


def learn(calibrator: online.Calibrator, before: stats.EngineStats, after: stats.EngineStats) -> None:
    """Feed what two readings tell, if they tell anything."""
    prompts = _more(before.prefix_queries_tokens_total, after.prefix_queries_tokens_total)
    begun = _more(before.ttft_count, after.ttft_count)
    if prompts is None or begun is None or before.waiting != 0 or after.waiting != 0:
        return
    if prompts == 0 and begun == 0:
        _step(calibrator, before, after)
    elif begun == 1 and before.running == 0 and after.running is not None and after.running <= 1:
        hits = _more(before.prefix_hits_tokens_total, after.prefix_hits_tokens_total)
        took_s = _more(before.ttft_s_sum, after.ttft_s_sum)
        if hits is not None and took_s is not None:
            calibrator.prefill(round(prompts - hits), round(hits), took_s * 1000.0)


def _step(calibrator: online.Calibrator, before: stats.EngineStats, after: stats.EngineStats) -> None:
    tokens = _more(before.itl_count, after.itl_count)
    took_s = _more(before.itl_s_sum, after.itl_s_sum)
    usage = None if before.kv_usage is None or after.kv_usage is None else (before.kv_usage + after.kv_usage) / 2
    if not tokens or took_s is None or usage is None or after.kv_blocks is None or after.block_size is None:
        return
    if before.running is None or before.running != after.running or tokens < _LEAST_TOKENS * before.running:
        return
    calibrator.step(after.running, usage * after.kv_blocks * after.block_size, took_s * 1000.0 / tokens)


def _more(before: float | None, after: float | None) -> float | None:
    """By how much a counter has grown; None where it is not known, or has begun anew."""
    return None if before is None or after is None or after < before else after - before

"""Latencies of two revisions, from the engines' own metrics while a roll-out is watched.

What counts is what came since the first look at a worker in this roll-out. Another operator that takes over begins to look
anew, and knows nothing until enough requests have come.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping

import httpx
from prometheus_client import parser

from operators import fleets
from operators.policy import latencies, rollout
from penstock.api import types
from penstock.api.crds import modeldeployment, values
from penstock.runtime import clock as clocks
from penstock.runtime import logs

_INTERVAL_S = 10.0
_FORGET_S = 3600.0
_TIMEOUT_S = 2.0
_AT_ONCE = 32
_MAX_BYTES = 4 * 2**20
# Ends of the engines' metric names, whichever engine; the first that is there counts.
_METRICS = {
    "ttft": ("time_to_first_token_seconds",),
    "itl": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    "e2e": ("e2e_request_latency_seconds",),
}

Histograms = Mapping[str, latencies.Histogram]


@dataclasses.dataclass
class _Watch:
    """What is known of one roll-out."""

    revision: str
    asked_s: float
    # By worker and incarnation.
    first: dict[tuple[str, int], Histograms] = dataclasses.field(default_factory=dict)
    last: dict[tuple[str, int], tuple[str, Histograms]] = dataclasses.field(default_factory=dict)


class Scraped:
    """See `deployments.Verdicts`."""

    def __init__(self, known: fleets.Fleets, clock: clocks.Clock) -> None:
        self._fleets, self._clock = known, clock
        self._log = logs.get("operator")
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False)

    async def start(self) -> None:
        """Nothing is asked before a roll-out."""

    async def stop(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def of(self, deployment: modeldeployment.ModelDeployment, old: str, new: str) -> rollout.Verdict:
        """What the latencies of both revisions say."""
        meta = deployment.metadata
        now_s = self._clock.monotonic_s()
        watch = self._watches.get((meta.namespace, meta.name))
        if watch is None or watch.revision != new:
            self._forget(now_s)
            watch = self._watches[meta.namespace, meta.name] = _Watch(new, -_INTERVAL_S)
        if now_s - watch.asked_s >= _INTERVAL_S:
            watch.asked_s = now_s
            records = await self._fleets.records(meta.namespace) or {}
            own = [each for each in records.values() if each.deployment == meta.name and each.revision in (old, new)]
            await self._ask(watch, own)
        sums = {old: dict[str, latencies.Histogram](), new: dict[str, latencies.Histogram]()}
        for key, (revision, found) in watch.last.items():
            for name, histogram in found.items():
                since = histogram.less(watch.first[key].get(name, latencies.Histogram({})))
                before = sums.setdefault(revision, {}).get(name, latencies.Histogram({}))
                sums[revision][name] = before.plus(since)
        return latencies.compare(targets(deployment), sums[old], sums[new])

    async def _ask(self, watch: _Watch, records: list[types.WorkerRecord]) -> None:
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(record: types.WorkerRecord) -> None:
            async with room:
                found = await self._read(record)
            if found is not None:
                key = (record.id, record.incarnation)
                watch.first.setdefault(key, found)
                watch.last[key] = (record.revision, found)

        await asyncio.gather(*map(one, records))

    async def _read(self, record: types.WorkerRecord) -> Histograms | None:
        endpoint = record.endpoint
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        try:
            answer = await self._http.get(f"http://{host}:{endpoint.port}/metrics")
            if not answer.is_success or len(answer.content) > _MAX_BYTES:
                return None
            return read(answer.text)
        except (httpx.HTTPError, ValueError) as exc:
            self._log.debug("metrics_unread", worker=record.id, reason=str(exc))
            return None

    def _forget(self, now_s: float) -> None:
        for key in [key for key, each in self._watches.items() if now_s - each.asked_s > _FORGET_S]:
            del self._watches[key]


def targets(deployment: modeldeployment.ModelDeployment) -> list[latencies.Target]:
    """The targets of all classes."""
    found = []
    for each in deployment.spec.slo_classes:
        for name, limit in (("ttft", each.ttft), ("itl", each.itl), ("e2e", each.e2e)):
            if limit is not None:
                found.append(latencies.Target(name, each.quantile, values.duration_s(limit)))
    return found


def read(text: str) -> Histograms:
    """Latency histograms of an engine's metrics; those that it does not tell are left out. Raises ValueError."""
    found: dict[str, dict[float, float]] = {}
    for sample, bound, count in _buckets(text):
        for name, ends in _METRICS.items():
            for end in ends:
                if sample.endswith(f"{end}_bucket"):
                    buckets = found.setdefault(f"{name}/{end}", {})
                    buckets[bound] = buckets.get(bound, 0.0) + count
    shown = {}
    for name, ends in _METRICS.items():
        chosen = next((found[f"{name}/{end}"] for end in ends if f"{name}/{end}" in found), None)
        if chosen is not None:
            shown[name] = _apart(chosen)
    return shown


def _buckets(text: str) -> Iterator[tuple[str, float, float]]:
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith("_bucket") and "le" in sample.labels:
                yield sample.name, float(sample.labels["le"]), sample.value


def _apart(cumulative: Mapping[float, float]) -> latencies.Histogram:
    """Prometheus' buckets count everything below their bound."""
    counts, before = {}, 0.0
    for bound, count in sorted(cumulative.items()):
        counts[bound], before = count - before, count
    return latencies.Histogram(counts)

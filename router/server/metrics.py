"""Prometheus metrics, made from the gateway's plain counters when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock import __version__
from router.dataplane import account, fleet, gateway
from router.server import degraded

PREFIX = "penstock_gateway_"


class GatewayCollector(Collector):
    """Reads one gateway at scrape time."""

    def __init__(self, owner: gateway.Gateway, health: degraded.Degraded) -> None:
        self._gateway = owner
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """All families of the gateway."""
        yield from self._requests()
        yield from self._models()
        yield from self._endpoints()
        yield from self._state()

    def _requests(self) -> Iterator[Metric]:
        book = self._gateway.account
        answers = CounterMetricFamily(
            PREFIX + "answers", "Answers from engines, by status; 499 is a client that left", labels=("model", "code")
        )
        for (model, status), count in sorted(book.answers.items()):
            answers.add_metric((model, str(status)), count)
        yield answers
        refusals = CounterMetricFamily(
            PREFIX + "refusals", "Requests answered by the gateway itself", labels=("reason",)
        )
        for reason, count in sorted(book.refusals.items()):
            refusals.add_metric((reason,), count)
        yield refusals
        retries = CounterMetricFamily(PREFIX + "retries", "Attempts made again, by reason", labels=("reason",))
        for reason, count in sorted(book.retries.items()):
            retries.add_metric((reason,), count)
        yield retries
        for name, text, value in (
            ("requests", "Requests on the hot paths", book.requests),
            ("cut_streams", "Answers that had begun and could not be finished", book.cut_streams),
            ("holds", "Requests that have waited for room in an endpoint's KV cache", self._gateway.holding.total),
            ("hold_seconds", "Time that these waited", self._gateway.holding.held_s),
            ("ejections", "Endpoints taken out of routing after a failure", book.ejections),
            ("readmissions", "Endpoints taken back after a successful probe", book.readmissions),
            ("share_batches_sent", "Batches of placements and load that were sent to the other gateways", book.batches_sent),
            ("share_batches_taken", "Batches of other gateways that were taken in", book.batches_taken),
            ("share_kv_reports_taken", "Reports of engines' caches that were taken in", book.kv_reports_taken),
            ("share_gaps", "Times that batches of another gateway were missed", book.gaps),
            ("share_snapshots_taken", "Whole indexes that were taken in from other gateways", book.snapshots_taken),
            ("index_evictions", "Blocks dropped from the prefix index to stay within its bounds",
             self._gateway.fleet.index.evictions),
        ):  # fmt: skip
            yield CounterMetricFamily(PREFIX + name, text, value=value)

    def _models(self) -> Iterator[Metric]:
        histograms = {
            "ttft_s": HistogramMetricFamily(
                PREFIX + "time_to_first_token_seconds", "Time to a stream's first byte", labels=("model",)
            ),
            "e2e_s": HistogramMetricFamily(
                PREFIX + "request_seconds", "Time to the end of an answer", labels=("model",)
            ),
            "gap_s": HistogramMetricFamily(
                PREFIX + "chunk_gap_seconds", "Mean time between the chunks of a stream", labels=("model",)
            ),
        }
        counters = {
            "prompt_tokens": "Prompt tokens that engines reported",
            "completion_tokens": "Completion tokens that engines reported",
            "cached_tokens": "Prompt tokens that engines reported as cached",
            "predicted_cached_tokens": "Prompt tokens that the index predicted as cached, of the same requests",
        }
        families = {
            name: CounterMetricFamily(PREFIX + name, text, labels=("model",)) for name, text in counters.items()
        }
        for model, totals in sorted(self._gateway.account.models.items()):
            for name, histogram in histograms.items():
                _add_histogram(histogram, model, getattr(totals, name))
            for name, family in families.items():
                family.add_metric((model,), getattr(totals, name))
        yield from histograms.values()
        yield from families.values()

    def _endpoints(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(PREFIX + "endpoints", "Endpoints by model and state", labels=("model", "state"))
        for name, pool in sorted(self._gateway.fleet.pools.items()):
            for state in fleet.Health:
                count = sum(1 for member in pool.members.values() if member.health is state)
                states.add_metric((name, state.value), count)
        yield states
        running = GaugeMetricFamily(PREFIX + "endpoint_inflight", "Requests in flight from here", labels=("endpoint",))
        queued = GaugeMetricFamily(
            PREFIX + "endpoint_queued_tokens",
            "Prompt tokens still to prefill, of requests from here",
            labels=("endpoint",),
        )
        for backend in self._gateway.fleet.backends.values():
            running.add_metric((backend.id,), backend.running)
            queued.add_metric((backend.id,), backend.queued_tokens)
        yield running
        yield queued

    def _state(self) -> Iterator[Metric]:
        owner = self._gateway
        index = owner.fleet.index
        for name, text, value in (
            ("inflight", "Requests in flight", len(owner.active)),
            ("held", "Of these, requests that wait for room in an endpoint's KV cache", len(owner.holding)),
            ("index_blocks", "Entries of the prefix index", index.entries),
            ("index_bytes", "Estimated memory of the prefix index", index.bytes),
        ):
            yield GaugeMetricFamily(PREFIX + name, text, value=value)
        modes = GaugeMetricFamily(PREFIX + "degraded", "1 while the gateway is degraded in this way", labels=("mode",))
        present = self._health.modes()
        for mode in degraded.MODES:
            modes.add_metric((mode,), 1.0 if mode in present else 0.0)
        yield modes
        build = GaugeMetricFamily(
            PREFIX + "build_info", "Version and id of this gateway", labels=("version", "gateway")
        )
        build.add_metric((__version__, owner.id), 1.0)
        yield build


def _add_histogram(family: HistogramMetricFamily, model: str, histogram: account.Histogram) -> None:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), total))
    family.add_metric((model,), buckets, histogram.total)


def render(owner: gateway.Gateway, health: degraded.Degraded) -> bytes:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(GatewayCollector(owner, health))
    return generate_latest(registry)

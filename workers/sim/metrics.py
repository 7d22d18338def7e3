"""Counters, gauges and histograms of a simulated worker, as text with vLLM's names and labels.

The histograms take many equal observations at once, since all sequences of a step share one token latency.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence

LATENCY_BUCKETS = (
    0.3,
    0.5,
    0.8,
    1,
    1.5,
    2,
    2.5,
    5,
    10,
    15,
    20,
    30,
    40,
    50,
    60,
    120,
    240,
    480,
    960,
    1920,
    7680,
)
TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
ITL_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
TOKEN_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000)

FINISH_REASONS = ("stop", "length", "abort")


class Histogram:
    """A Prometheus histogram."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self._counts)

    def observe(self, value: float, times: int = 1) -> None:
        """Record `value`, `times` times."""
        self._counts[bisect.bisect_left(self._bounds, value)] += times
        self.sum += value * times

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """The exposition lines."""
        total = 0
        edges = [str(float(bound)) for bound in self._bounds]
        for edge, count in zip((*edges, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{edge}"}} {float(total)}'
        yield f"{name}_count{{{labels}}} {float(total)}"
        yield f"{name}_sum{{{labels}}} {self.sum}"


class Metrics:
    """What a worker measures about its requests; the engine's own state is passed to `render`."""

    def __init__(self, model: str) -> None:
        self._labels = labels({"engine": "0", "model_name": model})
        self.success = dict.fromkeys(FINISH_REASONS, 0)
        self.ttft_s = Histogram(TTFT_BUCKETS)
        self.itl_s = Histogram(ITL_BUCKETS)
        self.tpot_s = Histogram(ITL_BUCKETS)
        self.e2e_s = Histogram(LATENCY_BUCKETS)
        self.queue_s = Histogram(LATENCY_BUCKETS)
        self.inference_s = Histogram(LATENCY_BUCKETS)
        self.prefill_s = Histogram(LATENCY_BUCKETS)
        self.decode_s = Histogram(LATENCY_BUCKETS)
        self.prompt_tokens = Histogram(TOKEN_BUCKETS)
        self.generation_tokens = Histogram(TOKEN_BUCKETS)

    def render(self, gauges: Mapping[str, float], counters: Mapping[str, float], extra: Iterable[str]) -> bytes:
        """The whole text; `extra` are further lines (info metrics)."""
        out: list[str] = []
        for name, value in gauges.items():
            out += (f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{self._labels}}} {float(value)}")
        for name, value in counters.items():
            out += (
                f"# TYPE vllm:{name}_total counter",
                f"vllm:{name}_total{{{self._labels}}} {float(value)}",
            )
        out.append("# TYPE vllm:request_success_total counter")
        for reason, count in self.success.items():
            out.append(f'vllm:request_success_total{{{self._labels},finished_reason="{reason}"}} {float(count)}')
        for name, histogram in self._histograms().items():
            out.append(f"# TYPE vllm:{name} histogram")
            out += histogram.lines(f"vllm:{name}", self._labels)
        out += extra
        return ("\n".join(out) + "\n").encode()

    def _histograms(self) -> dict[str, Histogram]:
        return {
            "time_to_first_token_seconds": self.ttft_s,
            "inter_token_latency_seconds": self.itl_s,
            "request_time_per_output_token_seconds": self.tpot_s,
            "e2e_request_latency_seconds": self.e2e_s,
            "request_queue_time_seconds": self.queue_s,
            "request_inference_time_seconds": self.inference_s,
            "request_prefill_time_seconds": self.prefill_s,
            "request_decode_time_seconds": self.decode_s,
            "request_prompt_tokens": self.prompt_tokens,
            "request_generation_tokens": self.generation_tokens,
        }


def labels(pairs: Mapping[str, str]) -> str:
    """Label pairs as text, escaped as the exposition format says."""
    return ",".join(f'{name}="{_escape(value)}"' for name, value in pairs.items())


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

"""Engine statistics in one vocabulary. What an engine does not tell is None, never 0."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import parser


@dataclasses.dataclass(frozen=True, slots=True)
class EngineStats:
    """One reading of an engine's metrics. Counts ending in `_total` only grow, until the engine restarts."""

    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    """Share of the KV cache in use, 0 to 1."""
    kv_blocks: int | None = None
    block_size: int | None = None
    """Tokens per block."""
    prefix_queries_tokens_total: int | None = None
    prefix_hits_tokens_total: int | None = None
    preemptions_total: int | None = None
    prompt_tokens_total: int | None = None
    generation_tokens_total: int | None = None
    ttft_s_sum: float | None = None
    ttft_count: int | None = None
    itl_s_sum: float | None = None
    itl_count: int | None = None
    e2e_s_sum: float | None = None
    e2e_count: int | None = None
    queue_s_sum: float | None = None
    queue_count: int | None = None
    finished_total: Mapping[str, int] | None = None
    """Requests ended, by reason."""


class BadMetrics(ValueError):
    """The text is not in the Prometheus exposition format."""


class UnknownEngine(ValueError):
    """No adapter has this name; the message lists those there are."""


class Samples:
    """The samples of one text, by name. Of several engines behind one endpoint, values add up."""

    def __init__(self, text: str) -> None:
        self._values: dict[str, list[tuple[dict[str, str], float]]] = {}
        try:
            for family in parser.text_string_to_metric_families(text):
                for sample in family.samples:
                    self._values.setdefault(sample.name, []).append((sample.labels, sample.value))
        except (ValueError, KeyError, IndexError) as exc:
            raise BadMetrics(f"not Prometheus text: {exc}") from exc

    def each(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """Labels and value of each sample of that name."""
        yield from self._values.get(name, ())

    def total(self, *names: str) -> float | None:
        """Sum of the samples of the first of `names` that is there."""
        for name in names:
            if found := self._values.get(name):
                return sum(value for _, value in found)
        return None

    def count(self, *names: str) -> int | None:
        """As `total`, as a whole number."""
        value = self.total(*names)
        return None if value is None else round(value)

    def mean(self, *names: str) -> float | None:
        """Mean of the samples of the first of `names` that is there."""
        for name in names:
            if found := self._values.get(name):
                return sum(value for _, value in found) / len(found)
        return None

    def by_label(self, name: str, label: str) -> dict[str, int] | None:
        """Sums by the value of one label."""
        if name not in self._values:
            return None
        sums: dict[str, int] = {}
        for labels, value in self._values[name]:
            key = labels.get(label, "")
            sums[key] = sums.get(key, 0) + round(value)
        return sums


Parse = Callable[[str], EngineStats]


def whole(text: str | None) -> int | None:
    """A label's whole number, or None."""
    return int(text) if text is not None and text.isdigit() else None

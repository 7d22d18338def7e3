"""What a simulation writes down: one outcome per request, and the gaps between tokens as ranges with weights."""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Sequence

import numpy

from penstock.report import outcome
from simulator import gateways

# A range of gaps is taken as this many equal parts.
_PARTS = 4


class Gaps:
    """Gaps between tokens of one class: runs of evenly growing gaps, each with its first, last and number."""

    __slots__ = ("_count", "_first", "_last")

    def __init__(self) -> None:
        self._first = array.array("d")
        self._last = array.array("d")
        self._count = array.array("d")

    def add(self, first_s: float, last_s: float, count: int) -> None:
        """`count` gaps from `first_s` to `last_s`."""
        self._first.append(first_s)
        self._last.append(last_s)
        self._count.append(count)

    def weighted(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Gaps in s, sorted, and how many there are of each."""
        first, last = numpy.array(self._first), numpy.array(self._last)
        count = numpy.array(self._count)
        places = (numpy.arange(_PARTS) + 0.5) / _PARTS
        values = (first[:, None] + (last - first)[:, None] * places).ravel()
        weights = numpy.repeat(count / _PARTS, _PARTS)
        order = numpy.argsort(values, kind="stable")
        return values[order], weights[order]


@dataclasses.dataclass(frozen=True, slots=True)
class Transfer:
    """KV that has gone from one worker to another."""

    end_s: float
    bytes: float
    seconds: float


class Tally:
    """Everything that is kept of a run."""

    def __init__(self, groups: int) -> None:
        self.outcomes: list[Outcome] = []
        self.gaps_of = [Gaps() for _ in range(groups)]
        self.transfers: list[Transfer] = []
        # Time from each request's first token to its second, where these came from two workers, s.
        self.handovers: list[float] = []
        self.retries = 0
        # Requests that have not ended.
        self.open = 0

    def sent(self, call: gateways.Call) -> None:
        """A request has arrived."""
        self.open += 1

    def gaps(self, decoding: Sequence[int], first_s: float, last_s: float, steps: int) -> None:
        """`steps` steps in which `decoding` sequences of each class got a token each."""
        for group, count in enumerate(decoding):
            if count:
                self.gaps_of[group].add(first_s, last_s, count * steps)

    def gap(self, group: int, gap_s: float) -> None:
        """One gap, of a sequence that was preempted."""
        self.gaps_of[group].add(gap_s, gap_s, 1)

    def ended(self, call: gateways.Call) -> None:
        """A request has ended, well or not."""
        self.open -= 1
        asked, job, there, leg = call.request, call.job, call.worker, call.leg
        found = Outcome(
            asked.line, asked.source, call.sent_s, asked.input_tokens, sent_s=call.sent_s, first_s=call.first_s
        )
        found.group = asked.group
        found.model = asked.model
        found.retries = call.attempts - 1
        if leg is not None:
            found.computed_by = leg.computed_by
            found.answer_retries = max(0, leg.answer_tries - 1)
            found.retries += found.answer_retries
        found.error = call.error
        found.end_s = call.end_s
        found.endpoint = there.id if there is not None else None
        if call.end_s is not None and job is not None and call.first_s is not None:
            found.status = 200
            found.gap_sum_s = call.end_s - call.first_s
            found.gap_count = asked.output_tokens - 1
            found.chunks = found.completion_tokens = asked.output_tokens
            found.prompt_tokens = asked.input_tokens
            found.preemptions = job.preemptions
            if leg is not None and leg.job is not None:
                found.preemptions += leg.job.preemptions
                job = leg.job
            found.cached_tokens = job.cached_tokens
            found.queued_s = None if job.admitted_s is None else job.admitted_s - job.arrival_s
            size = there.engine.config.block_size
            found.blocks = -(-asked.input_tokens // size)
            found.cached_blocks = job.cached_tokens // size
        self.outcomes.append(found)


class Outcome(outcome.Outcome):
    """One simulated request."""

    __slots__ = (
        "answer_retries",
        "blocks",
        "cached_blocks",
        "computed_by",
        "group",
        "model",
        "preemptions",
        "queued_s",
    )

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.group = 0
        self.model = 0
        self.blocks = 0
        self.cached_blocks = 0
        self.preemptions = 0
        self.queued_s: float | None = None
        # Where two workers have to do with it: which one computed the prompt, and how often the answer was sent elsewhere.
        self.computed_by: str | None = None
        self.answer_retries = 0

"""One simulated worker: an engine, the work under way on it, and what it has done so far."""

from __future__ import annotations

import math
import typing

from penstock import perf
from penstock.api import types as api
from simulator import power
from workers.engine import engine, types


class Worker:
    """An engine on the virtual clock. The cluster moves it; nothing here looks at a clock."""

    __slots__ = (
        "begin_s",
        "bins",
        "calls",
        "computed_tokens",
        "decoding",
        "end_s",
        "engine",
        "evicted_before",
        "generation",
        "hung",
        "id",
        "joules",
        "kv_bytes_per_s",
        "kv_bytes_per_token",
        "link_factor",
        "pending",
        "planned",
        "pool",
        "preemptions_before",
        "profile",
        "ready",
        "received_bytes",
        "record",
        "report_due",
        "reported",
        "requests",
        "sent_bytes",
        "slowdown",
        "started_s",
        "transfer_s",
        "watts",
        "worker_s",
        "working_s",
    )

    def __init__(
        self,
        record: api.WorkerRecord,
        profile: perf.EngineProfile,
        model: engine.Engine,
        groups: int,
        slowdown: float,
        pool: str = "",
    ) -> None:
        self.id = record.id
        self.slowdown = slowdown
        self.record = record
        self.profile = profile
        self.engine = model
        # Name of its pool, as the figures have it.
        self.pool = pool
        # Its link to other workers, where it sends or receives KV: what it is built for, and by how much it is slower now.
        self.kv_bytes_per_s = 0.0
        self.kv_bytes_per_token = 0
        self.link_factor = 1.0
        # KV that it has sent and received, and the time that this took, that of each transfer counted in full.
        self.sent_bytes = self.received_bytes = self.transfer_s = 0.0
        self.watts = power.of(profile)
        # Rises whenever what is scheduled for it no longer holds.
        self.generation = 0
        self.ready = False
        self.hung = False
        self.begin_s = self.end_s = 0.0
        # Steps that only decode, begun at begin_s and not applied yet; 0 where `pending` holds what is under way.
        self.planned = 0
        self.pending: types.StepResult | types.Stretch | None = None
        # Decoding sequences by class.
        self.decoding = [0] * groups
        # Of its reports on the cache: whether one is due, what the last said, and evictions until then.
        self.report_due = False
        self.reported = (0, 0)
        self.evicted_before = 0
        # Requests that gateways have sent here and that have not ended, in the order of sending.
        self.calls: dict[typing.Any, None] = {}
        self.requests = 0
        self.preemptions_before = 0
        self.computed_tokens = 0
        self.working_s = 0.0
        # Time that it was up, without the present run of it.
        self.worker_s = 0.0
        self.started_s: float | None = None
        self.joules = 0.0
        # Per time bin: seconds of work, sequences times seconds, prompt tokens computed.
        self.bins: list[list[float]] = []

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return not self.planned and self.pending is None

    def begin(self, now_s: float) -> bool:
        """Starts what is to be done next; `end_s` says until when. False if there is nothing to do."""
        model = self.engine
        steps = model.steady_steps()
        if steps:
            self.planned = steps
            duration_s = model.stretch_s(steps)
        else:
            result = model.step(now_s)
            if result is None:
                return False
            self.pending = result
            duration_s = result.duration_s
        self.begin_s = now_s
        self.end_s = now_s + duration_s
        return True

    def cut(self, now_s: float, whole: bool = False) -> bool:
        """Lets a stretch under way end with the step that is being done now. True if `end_s` has changed.

        `whole` fixes what is under way even where that is its last step, so that the engine's speed may change.
        """
        planned = self.planned
        if not planned or (planned == 1 and not whole):
            return False
        steps = self.engine.steps_until(now_s - self.begin_s, planned)
        if steps == planned and not whole:
            return False
        self.planned = 0
        self.pending = result = self.engine.advance(steps)
        self.end_s = self.begin_s + result.duration_s
        return True

    def finish(self) -> types.StepResult | types.Stretch:
        """What was under way and has ended."""
        if self.planned:
            steps, self.planned = self.planned, 0
            return self.engine.advance(steps)
        result, self.pending = self.pending, None
        assert result is not None
        return result

    def stop(self, now_s: float) -> None:
        """The engine is gone, with all that it held."""
        self.preemptions_before += self.engine.counters.preemptions
        self.generation += 1
        self.planned = 0
        self.pending = None
        self.ready = self.hung = False
        self.decoding = [0] * len(self.decoding)
        self.calls = {}
        if self.started_s is not None:
            self.worker_s += now_s - self.started_s
            self.started_s = None

    def start(self, model: engine.Engine, record: api.WorkerRecord) -> None:
        """A new engine answers."""
        self.engine = model
        self.record = record
        self.reported = (0, 0)
        self.evicted_before = 0
        self.ready = True

    @property
    def kv_ms_per_token(self) -> float:
        """Time of a token's KV over its link, ms."""
        return self.kv_bytes_per_token / self.kv_bytes_per_s * 1_000.0 if self.kv_bytes_per_s else 0.0

    @property
    def preemptions(self) -> int:
        """Of all its engines."""
        return self.preemptions_before + self.engine.counters.preemptions

    def account(self, result: types.StepResult | types.Stretch, bin_s: float) -> None:
        """Books the time, the tokens and the energy of what has ended."""
        duration_s = result.duration_s
        self.working_s += duration_s
        if isinstance(result, types.Stretch):
            self.computed_tokens += result.steps * result.decoding
            prefilled, running = 0, result.decoding
            share = 0.0
        else:
            running = len(result.decoded)
            prefilled = result.prefill_tokens
            self.computed_tokens += prefilled + running
            share = self._prefill_share(result) if prefilled else 0.0
        if self.watts is not None:
            self.joules += duration_s * self.watts.mixed_w(running, share)
        self._fill_bins(self.begin_s, duration_s, running, prefilled, bin_s)

    def _prefill_share(self, result: types.StepResult) -> float:
        """Share of a mixed step that its prompts take."""
        alone_ms = self.profile.step.decode_step_ms(len(result.decoded), result.decode_kv_tokens)
        total_ms = result.duration_s * 1000.0 / self.engine.slowdown
        return 1.0 - alone_ms / total_ms if total_ms > 0 else 0.0

    def _fill_bins(self, begin_s: float, duration_s: float, running: int, prefilled: int, bin_s: float) -> None:
        bins = self.bins
        at = int(begin_s / bin_s)
        last = int((begin_s + duration_s) / bin_s)
        while len(bins) <= last:
            bins.append([0.0, 0.0, 0.0])
        if at == last:
            here = bins[at]
            here[0] += duration_s
            here[1] += duration_s * running
        else:
            for place in range(at, last + 1):
                part_s = min(begin_s + duration_s, (place + 1) * bin_s) - max(begin_s, place * bin_s)
                bins[place][0] += part_s
                bins[place][1] += part_s * running
        if prefilled:
            bins[at][2] += prefilled

    def up_s(self, until_s: float) -> float:
        """Seconds that the worker has existed, starting included."""
        return self.worker_s + (0.0 if self.started_s is None else max(0.0, until_s - self.started_s))

    def energy_j(self, until_s: float) -> float:
        """Joules of its accelerators; not a number where their power is unknown."""
        if self.watts is None:
            return math.nan
        idle_s = max(0.0, self.up_s(until_s) - self.working_s)
        return self.joules + idle_s * self.watts.idle_w

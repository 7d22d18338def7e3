"""The events of a simulated fleet: arrivals, steps of engines, and what gateways learn of them.

Only workers with something to do have an event, so an event costs the logarithm of their number.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from router.dataplane import gateway as production
from simulator import gateways, handover, requests, tally, worker
from workers.engine import types

_END = float("inf")


class Cluster:
    """Workers behind gateways on a virtual clock."""

    def __init__(
        self,
        clock: gateways.Clock,
        arrivals: Iterable[requests.Request],
        doors: Sequence[gateways.Gateway],
        models: Sequence[str],
        groups: int,
        *,
        priorities: Sequence[int] = (0,),
        speed: float = 1.0,
        seed: int = 0,
        latency_s: float = 0.0,
        max_attempts: int = 4,
        bin_s: float = 60.0,
    ) -> None:
        self.clock = clock
        self.gateways = doors
        self.workers: dict[str, worker.Worker] = {}
        self.tally = tally.Tally(groups)
        self.events = 0
        self.steps = 0
        self.bin_s = bin_s
        self._models = models
        self._priorities = priorities
        self._arrivals = iter(arrivals)
        self._speed = speed
        self.latency_s = latency_s
        self.max_attempts = max_attempts
        self._rng = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[Any, int], None], Any, int]] = []
        self._order = itertools.count()
        self._ids = itertools.count()
        # Gateways whose next tick is due.
        self._ticking: set[str] = set()
        self.on_booked: Callable[[gateways.Gateway], None] = lambda door: None
        # Called where a request is sent to a worker that hangs, and where one has nothing left to do.
        self.on_silence: Callable[[gateways.Gateway, worker.Worker], None] = lambda door, there: None
        self.on_empty: Callable[[worker.Worker], None] | None = None
        # Called where a worker's cache has changed, at most once until it has reported.
        self.on_cache: Callable[[worker.Worker], None] | None = None
        # Moves requests on whose prompt and answer are computed by two workers; None where no model has such workers.
        self.handover: handover.Handover | None = None
        self._split: frozenset[str] = frozenset()

    def divide(self, models: Iterable[str], delay_s: float, early: bool) -> handover.Handover:
        """Prompts and answers of these models are computed by workers of their own; `early`: the first token by the former."""
        self._split = frozenset(models)
        self.handover = made = handover.Handover(self, delay_s, early)
        return made

    def at(self, time_s: float, act: Callable[[Any, int], None], what: Any = None, number: int = 0) -> None:
        """Calls `act(what, number)` at a time; equal times in the order of these calls."""
        heapq.heappush(self._heap, (time_s, next(self._order), act, what, number))

    def run(self) -> None:
        """Plays everything until the last request has ended."""
        heap, clock, pop = self._heap, self.clock, heapq.heappop
        arrivals, speed = self._arrivals, self._speed
        coming = next(arrivals, None)
        coming_s = _END if coming is None else coming.arrival_s / speed
        while coming is not None or self.tally.open:
            if heap and heap[0][0] <= coming_s:
                now_s, _, act, what, number = pop(heap)
                clock.now_s = now_s
                act(what, number)
            elif coming is not None:
                clock.now_s = coming_s
                self._arrive(coming)
                coming = next(arrivals, None)
                coming_s = _END if coming is None else coming.arrival_s / speed
            else:
                break
            self.events += 1
            while clock.soon:
                clock.soon.pop()()

    def _arrive(self, request: requests.Request) -> None:
        doors = self.gateways
        door = doors[0] if len(doors) == 1 else doors[self._rng.randrange(len(doors))]
        model = self._models[request.model]
        call = gateways.Call(request, gateways.Feature(model, request.input_tokens, None), None, self.clock.now_s)
        if model in self._split:
            gateways.divide(call, model)
        call.on_room = self._go_on
        self.tally.sent(call)
        self.send(door, call)

    def send(self, door: gateways.Gateway, call: gateways.Call) -> None:
        """Routes a request and sends it, or holds it; what cannot be routed has failed."""
        call.attempts += 1
        call.gateway = door
        self._go_on(call)

    def _go_on(self, call: gateways.Call) -> None:
        door = call.gateway
        assert door is not None
        try:
            chosen = door.route(call)
        except production.NoEndpointError:
            self.refuse(call, "no_endpoint")
            return
        except production.UnknownModelError:
            self.refuse(call, "model_not_found")
            return
        if chosen is None:
            if door.name not in self._ticking:
                self._ticking.add(door.name)
                self.at(self.clock.now_s + gateways.TICK_S, self._tick, door)
            return
        self.on_booked(door)
        there = self.workers[chosen]
        call.worker = there
        if call.leg is not None:
            call.leg.holder, call.leg.computed_by = there, there.id
        there_s = self.clock.now_s + self.latency_s
        if there.ready:
            there.calls[call] = None
            before_s = there.profile.before_engine_ms(call.request.input_tokens) / 1000.0
            self.at(there_s + before_s, self._enter, call, call.attempts)
            if there.hung:
                self.on_silence(door, there)
        else:
            self.at(there_s, self._unreachable, call)

    def _tick(self, door: gateways.Gateway, _: int) -> None:
        """A gateway that holds requests looks at them each tick."""
        self._ticking.discard(door.name)
        door.core.dispatch()
        if door.core.holding.waiting and door.name not in self._ticking:
            self._ticking.add(door.name)
            self.at(self.clock.now_s + gateways.TICK_S, self._tick, door)

    def refuse(self, call: gateways.Call, why: str) -> None:
        """A request ends with an error."""
        call.error = why
        door = call.gateway
        if door is not None:
            door.core.holding.gone(call, self.clock.now_s * 1_000.0)  # type: ignore[arg-type]
        if call.worker is not None:
            call.worker.calls.pop(call, None)
        self.tally.ended(call)

    def _unreachable(self, call: gateways.Call, _: int) -> None:
        self.lost(call, call.worker)

    def lost(self, call: gateways.Call, there: worker.Worker) -> None:
        """An engine has gone with a request: elsewhere if nothing was answered yet, as the data plane does."""
        if call.leg is not None and self.handover is not None:
            self.handover.lost(call, call.leg, there)
            return
        door = call.gateway
        assert door is not None
        door.failed(call)
        there.calls.pop(call, None)
        call.job = None
        call.decoding = False
        self.on_booked(door)
        if call.first_s is not None:
            self.refuse(call, "cut")
        else:
            self.again(call)

    def again(self, call: gateways.Call) -> None:
        """A request without a byte of its answer is sent elsewhere, so many times."""
        door = call.gateway
        assert door is not None
        if call.attempts >= self.max_attempts:
            self.refuse(call, "upstream_failed")
        else:
            self.tally.retries += 1
            self.send(door, call)

    def give_up(self, call: gateways.Call, there: worker.Worker) -> None:
        """A gateway waits no longer for a silent worker's answer."""
        if call.leg is not None and not handover.answers(call.leg, there):
            return
        if call.job is not None:
            there.engine.abort(call.job.id)
        if call.decoding:
            there.decoding[call.request.group] -= 1
        self.lost(call, there)

    # Engines.

    def new_id(self) -> str:
        """An id for an engine's request."""
        return str(next(self._ids))

    def priority_of(self, call: gateways.Call) -> int:
        """Of its class."""
        return self._priorities[call.request.group]

    def interrupt(self, there: worker.Worker) -> None:
        """Something changes for an engine: a run of its steps ends with the step that is being done."""
        if not there.hung and there.cut(self.clock.now_s):
            self.schedule(there)

    def wake(self, there: worker.Worker) -> None:
        """Something has changed for an engine that may have had nothing to do."""
        if there.idle and there.ready and not there.hung:
            self.begin(there)
            if there.idle and not there.calls and self.on_empty is not None:
                self.on_empty(there)

    def add(self, there: worker.Worker, job: types.Request) -> bool:
        """Gives an engine a request; False where it could never run there."""
        self.interrupt(there)
        try:
            there.engine.add(job, self.clock.now_s)
        except types.RejectedRequest:
            return False
        there.requests += 1
        if there.idle and not there.hung:
            self.begin(there)
        return True

    def _enter(self, call: gateways.Call, attempt: int) -> None:
        there: worker.Worker = call.worker
        if call.attempts != attempt or call not in there.calls:
            # Lost on the way, with its worker.
            return
        asked, leg = call.request, call.leg
        job = types.Request(
            str(next(self._ids)),
            asked.input_tokens,
            asked.output_tokens if leg is None else 1,
            asked.blocks,
            payload=call,
            priority=self._priorities[asked.group],
            hold=leg is not None and self.handover is not None and self.handover.follows(asked),
        )
        call.job = job
        if not self.add(there, job):
            door = call.gateway
            assert door is not None
            door.release(call)
            self.on_booked(door)
            self.refuse(call, "http_400")

    def begin(self, there: worker.Worker) -> None:
        """Lets an idle engine start what it has to do."""
        if there.begin(self.clock.now_s):
            self.schedule(there)
            if self.handover is not None and isinstance(there.pending, types.StepResult) and there.pending.receiving:
                self.handover.fetch(there, there.pending.receiving)

    def schedule(self, there: worker.Worker) -> None:
        """The event of what is under way; a former one no longer holds."""
        there.generation += 1
        heapq.heappush(self._heap, (there.end_s, next(self._order), self._step_done, there, there.generation))

    def _step_done(self, there: worker.Worker, generation: int) -> None:
        if there.generation != generation:
            return
        result = there.finish()
        there.account(result, self.bin_s)
        self.steps += 1
        if isinstance(result, types.Stretch):
            self.tally.gaps(there.decoding, result.first_s, result.last_s, result.steps)
        else:
            self._deliver(there, result)
        heard_s = self.clock.now_s + self.latency_s
        for job in result.finished:
            call: Any = job.payload
            if call.job is not job:
                continue
            if call.decoding:
                there.decoding[call.request.group] -= 1
            if job.hold and self.handover is not None:
                call.decoding = False
                self.handover.computed(call, call.leg)
                continue
            call.end_s = heard_s
            del there.calls[call]
            if self.latency_s:
                self.at(heard_s, self._end_heard, call)
            else:
                self._end_heard(call, 0)
        if self.on_cache is not None and not there.report_due:
            model = there.engine
            if there.reported != (model.cached_blocks, model.counters.evicted_blocks):
                self.on_cache(there)
        self.begin(there)
        if there.idle and not there.calls and self.on_empty is not None:
            self.on_empty(there)

    def _deliver(self, there: worker.Worker, result: types.StepResult) -> None:
        now_s = self.clock.now_s
        decoding = there.decoding
        for job in result.preempted:
            paused: Any = job.payload
            if paused.job is job and paused.decoding:
                paused.decoding = False
                paused.paused_s = now_s - result.duration_s
                decoding[paused.request.group] -= 1
        if result.decoded:
            self.tally.gaps(decoding, result.duration_s, result.duration_s, 1)
        if result.joined and self.handover is not None:
            self.handover.joined(there, result.joined)
        for job in result.first:
            call: Any = job.payload
            if call.job is not job:
                # Given up by its gateway while the engine hung.
                continue
            if job.hold and self.handover is not None and not self.handover.early:
                # Nobody sees this token.
                continue
            call.decoding = True
            group = call.request.group
            decoding[group] += 1
            if call.first_s is None:
                call.first_s = now_s + self.latency_s
                if self.latency_s:
                    self.at(call.first_s, self._first_heard, call)
                else:
                    self._first_heard(call, 0)
            else:
                self.tally.gap(group, now_s - call.paused_s)

    # Answers, as gateways hear them.

    def _first_heard(self, call: gateways.Call, _: int) -> None:
        if call.error is None and call.gateway is not None:
            call.gateway.first_byte(call)
            self.on_booked(call.gateway)

    def _end_heard(self, call: gateways.Call, _: int) -> None:
        door, job = call.gateway, call.job
        assert door is not None and job is not None
        early = call.leg is not None and self.handover is not None and self.handover.early
        door.complete(call, job.cached_tokens, int(early))
        self.on_booked(door)
        self.tally.ended(call)

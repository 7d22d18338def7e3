"""Runs the engine model on the real clock and hands tokens to those who wait for them."""

import asyncio
import time
from collections.abc import Callable, Sequence

from workers.engine import engine, types
from workers.sim import metrics

_CATCH_UP_S = 0.05
"""A step that ends late by less than this does not delay the next: timers have a resolution of about 1 ms."""


class Stream:
    """One request as its HTTP handler sees it: how many tokens there are, and whether they are the last."""

    __slots__ = (
        *(
            "_waiter",
            "aborted",
            "done",
            "finish_reason",
            "first_s",
            "last_s",
            "ready",
            "request",
            "streaming",
        ),
        "submitted_s",
    )

    def __init__(self, request: types.Request, submitted_s: float, streaming: bool, finish_reason: str) -> None:
        self.request = request
        self.finish_reason = finish_reason
        self.streaming = streaming
        """Whether the handler wants to know of every token, or only of the end."""
        self.submitted_s = submitted_s
        self.first_s: float | None = None
        self.last_s = submitted_s
        self.ready = 0
        """Tokens generated."""
        self.done = False
        self.aborted = False
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self, seen: int) -> None:
        """Return when there are more than `seen` tokens, or the end."""
        while self.ready <= seen and not self.done:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def wake(self) -> None:
        """Let the waiting handler look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self, aborted: bool) -> None:
        """No more tokens come."""
        self.done = True
        self.aborted = aborted
        self.wake()


class Driver:
    """Owns an engine, its clock and the loop that steps it."""

    def __init__(
        self,
        model: engine.Engine,
        measured: metrics.Metrics,
        *,
        speed: float,
        before_engine_ms: Callable[[int], float],
        publish: Callable[[Sequence[types.KvEvent]], None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = model
        self._metrics = measured
        self._speed = speed
        # Prompt tokens -> ms until the engine has the request.
        self._before_engine_ms = before_engine_ms
        self._publish = publish
        self._clock = clock
        self._streams: dict[str, Stream] = {}
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._token_s = 0.0

    @property
    def in_flight(self) -> int:
        """Requests submitted and not ended."""
        return len(self._streams)

    def start(self) -> None:
        """Begin stepping, in the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="sim-engine")

    async def stop(self) -> None:
        """Stop stepping and end what is left as aborted."""
        for request_id in list(self._streams):
            self.abort(request_id)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def submit(self, request: types.Request, streaming: bool, finish_reason: str) -> Stream:
        """Queue a request. Raises types.RejectedRequest if it can never fit."""
        self.engine.check(request)
        stream = Stream(request, self._clock(), streaming, finish_reason)
        self._streams[request.id] = stream
        before_ms = self._before_engine_ms(request.prompt_tokens)
        if before_ms:
            asyncio.get_running_loop().call_later(before_ms / 1000.0 / self._speed, self._enter, stream)
        else:
            self._enter(stream)
        return stream

    def abort(self, request_id: str) -> None:
        """End a request early; nothing happens if it has ended."""
        stream = self._streams.pop(request_id, None)
        if stream is not None:
            self.engine.abort(request_id)
            self._metrics.success["abort"] += 1
            stream.end(aborted=True)

    def reset_prefix_cache(self) -> bool:
        """As `Engine.reset_prefix_cache`; its event goes out at once."""
        done = self.engine.reset_prefix_cache()
        self._send(self.engine.drain_kv_events())
        return done

    def _enter(self, stream: Stream) -> None:
        if not stream.done:
            stream.request.payload = stream
            self.engine.add(stream.request, self._clock())
            self._work.set()

    async def _run(self) -> None:
        end_s = self._clock()
        while True:
            now_s = self._clock()
            begin_s = end_s if now_s - end_s < _CATCH_UP_S else now_s
            result = self.engine.step(begin_s)
            if result is None:
                self._work.clear()
                await self._work.wait()
                end_s = self._clock()
                continue
            end_s = begin_s + result.duration_s / self._speed
            self._send(result.kv_events)
            await asyncio.sleep(max(0.0, end_s - self._clock()))
            self._deliver(result)

    def _send(self, events: Sequence[types.KvEvent]) -> None:
        if events and self._publish is not None:
            self._publish(events)

    def _deliver(self, result: types.StepResult) -> None:
        now_s = self._clock()
        for request in result.first:
            stream = request.payload
            if isinstance(stream, Stream) and not stream.done:
                if stream.first_s is None:
                    stream.first_s = now_s
                    self._metrics.ttft_s.observe(now_s - stream.submitted_s)
                else:
                    self._metrics.itl_s.observe(now_s - stream.last_s)
                self._token(stream, now_s)
        if result.decoded:
            self._metrics.itl_s.observe(now_s - self._token_s, len(result.decoded))
            for request in result.decoded:
                stream = request.payload
                if isinstance(stream, Stream) and not stream.done:
                    self._token(stream, now_s)
        self._token_s = now_s
        for request in result.finished:
            ended = self._streams.pop(request.id, None)
            if ended is not None:
                self._observe_end(ended, now_s)
                ended.end(aborted=False)

    def _token(self, stream: Stream, now_s: float) -> None:
        stream.ready += 1
        stream.last_s = now_s
        if stream.streaming:
            stream.wake()

    def _observe_end(self, stream: Stream, now_s: float) -> None:
        measured, request = self._metrics, stream.request
        admitted_s = request.admitted_s if request.admitted_s is not None else now_s
        first_s = stream.first_s if stream.first_s is not None else now_s
        measured.success[stream.finish_reason] += 1
        measured.e2e_s.observe(now_s - stream.submitted_s)
        measured.queue_s.observe(max(0.0, admitted_s - request.arrival_s))
        measured.inference_s.observe(now_s - admitted_s)
        measured.prefill_s.observe(first_s - admitted_s)
        measured.decode_s.observe(now_s - first_s)
        measured.prompt_tokens.observe(request.prompt_tokens)
        measured.generation_tokens.observe(request.output_tokens)
        if request.output_tokens > 1:
            measured.tpot_s.observe((now_s - first_s) / (request.output_tokens - 1))

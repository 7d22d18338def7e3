"""Asks a server in a way that tells its prefill and decode times apart.

One request at a time gives prefill times: the time to the first token over prompt lengths, cold and behind a cached prefix.
Requests sent together give decode steps: the mean gap between tokens while all of them generate, over batch sizes and prompt
lengths. The server has to be idle otherwise.
"""

from __future__ import annotations

import array
import asyncio
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import orjson

from controller.replay import answer, connection, fetch, target
from penstock.report import outcome
from penstock.workload import prompts, request

_PATH = "/v1/completions"
_PROBE_TOKENS = 64
# Below this many tokens in common there is no mean gap to speak of.
_LEAST_COMMON = 8


class CalibrateError(Exception):
    """The server cannot be measured; the message says what it did and what would help."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is asked. Lengths are in tokens of the server's own counting, as far as they can be known before."""

    to: target.Target
    headers: Mapping[str, str]
    model: str
    prompt_tokens: Sequence[int]
    contexts: Sequence[int]
    """Cached prefixes, each asked with the smaller half of the prompts behind it."""
    batches: Sequence[int]
    batch_prompts: Sequence[int]
    output_tokens: int = 48
    rounds: int = 3
    timeout_s: float = 120.0


@dataclasses.dataclass(frozen=True, slots=True)
class Prefill:
    """Time to the first token of a request alone."""

    uncached_tokens: int
    cached_tokens: int
    measured_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class Decode:
    """Mean time between the tokens of sequences that decode together."""

    seqs: int
    kv_tokens: int
    measured_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """Everything found. `cached_known`: the server's usage tells cached tokens, so contexts could be measured."""

    prefills: tuple[Prefill, ...]
    decodes: tuple[Decode, ...]
    cached_known: bool


@dataclasses.dataclass(slots=True)
class _Got:
    found: outcome.Outcome
    times_s: list[float]
    """When each chunk of content came."""


class _Client:
    """Sends completions, each with a text of its own."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._bytes_per_token = 4.0
        # Another run's prompts may still be cached in the server.
        self._maker = prompts.Prompts(time.time_ns() & 0x7FFF_FFFF, 1.0)
        self._texts = 0

    async def probe(self) -> None:
        """Warm the server up, and learn how many bytes its tokens have."""
        text = self.text(_PROBE_TOKENS * 4)
        for _ in range(3):
            got = await self.ask(text, 2)
        counted = got.found.prompt_tokens
        if not counted:
            raise CalibrateError(
                f"{self._plan.to.authority}: its answers have no usage.prompt_tokens, so nothing is known"
            )
        self._bytes_per_token = len(text) / max(1, counted)

    def text(self, size_bytes: int) -> str:
        """A text like no other."""
        self._texts += 1
        made = request.TraceRequest(0.0, max(1, size_bytes), 1, "calibrate", self._texts)
        return self._maker.text(made)

    def prompt(self, tokens: int) -> str:
        """A text of about so many tokens, like no other."""
        return self.text(round(tokens * self._bytes_per_token))

    async def ask(self, text: str, output_tokens: int) -> _Got:
        """One completion. Raises CalibrateError."""
        [got] = await self.together([text], output_tokens)
        return got

    async def together(self, texts: Sequence[str], output_tokens: int) -> list[_Got]:
        """Completions sent at once, over connections that are open before. Raises CalibrateError."""
        plan = self._plan
        try:
            async with asyncio.timeout(plan.timeout_s):
                made = [await fetch.connect(plan.to) for _ in texts]
                try:
                    return await asyncio.gather(
                        *(self._one(on, text, output_tokens) for on, text in zip(made, texts, strict=True))
                    )
                finally:
                    for on in made:
                        on.abort()
        except TimeoutError as exc:
            raise CalibrateError(
                f"{plan.to.authority}: no whole answer within {plan.timeout_s:g} s; ask for less, or give --timeout"
            ) from exc
        except OSError as exc:
            raise CalibrateError(f"{plan.to.authority}: {exc}") from exc

    async def _one(self, on: connection.Connection, text: str, output_tokens: int) -> _Got:
        plan = self._plan
        done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        found = outcome.Outcome(0, "calibrate", 0.0, 0)
        gaps: array.array[float] = array.array("d")
        fields = {
            "model": plan.model,
            "prompt": text,
            "max_tokens": output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

        def ended(_: answer.Answer, error: str | None, any_byte: bool) -> None:
            if not done.done():
                done.set_result(error)

        body = orjson.dumps(fields)
        found.sent_s = time.perf_counter()
        on.send(plan.to.head("POST", _PATH, plan.headers), body, answer.Answer(found, time.perf_counter, gaps, ended))
        error = await done
        found.end_s = time.perf_counter()
        if error is not None:
            raise CalibrateError(
                f"{plan.to.authority}: a completion of {len(text):,} bytes and {output_tokens} tokens: {error}"
            )
        times = [] if found.first_s is None else [found.first_s]
        for gap in gaps:
            times.append(times[-1] + gap)
        return _Got(found, times)


async def measure(plan: Plan, on_step: Callable[[int, int], None] = lambda done, of: None) -> Measured:
    """Measure; `on_step(done, of)` is called as it goes on. Raises CalibrateError."""
    client = _Client(plan)
    await client.probe()
    colds = [(tokens, 0) for tokens in plan.prompt_tokens]
    smaller = sorted(plan.prompt_tokens)[: max(1, len(plan.prompt_tokens) // 2)]
    behind = [(tokens, context) for context in plan.contexts for tokens in smaller]
    batches = [(batch, tokens) for batch in plan.batches for tokens in plan.batch_prompts]
    steps = plan.rounds * (len(colds) + len(behind) + len(batches))
    done = 0
    prefills: dict[tuple[int, int], list[Prefill]] = {}
    decodes: dict[tuple[int, int], list[Decode]] = {}
    cached_known = True
    # Round by round, so that a machine that changes its speed changes all points alike.
    for _ in range(plan.rounds):
        for tokens, context in (*colds, *behind):
            prefill = await _prefill(client, tokens, context)
            if prefill is None:
                cached_known = False
            else:
                prefills.setdefault((tokens, context), []).append(prefill)
            on_step(done := done + 1, steps)
        for batch, tokens in batches:
            decodes.setdefault((batch, tokens), []).append(await _decode(client, batch, tokens, plan))
            on_step(done := done + 1, steps)
    return Measured(
        tuple(
            Prefill(found[0].uncached_tokens, found[0].cached_tokens, statistics.median(x.measured_ms for x in found))
            for found in prefills.values()
        ),
        tuple(
            Decode(found[0].seqs, found[0].kv_tokens, statistics.median(x.measured_ms for x in found))
            for found in decodes.values()
        ),
        cached_known,
    )


async def _prefill(client: _Client, tokens: int, context: int) -> Prefill | None:
    """None where the server does not say how much of a repeated prompt it had cached."""
    before = client.prompt(context) if context else ""
    if context:
        await client.ask(before, 1)
    got = await client.ask(before + client.prompt(tokens), 1)
    found = got.found
    if found.ttft_s is None or not found.prompt_tokens:
        raise CalibrateError("an answer came without a first token, or without usage.prompt_tokens")
    cached = found.cached_tokens
    if context and not cached:
        return None
    return Prefill(found.prompt_tokens - (cached or 0), cached or 0, found.ttft_s * 1000.0)


async def _decode(client: _Client, batch: int, tokens: int, plan: Plan) -> Decode:
    every = await client.together([client.prompt(tokens) for _ in range(batch)], plan.output_tokens)
    begin_s = max(each.times_s[0] for each in every if each.times_s)
    end_s = min(each.times_s[-1] for each in every if each.times_s)
    common = kv_tokens = 0.0
    for each in every:
        found = each.found
        generated = found.completion_tokens or found.chunks
        # A chunk may hold several tokens.
        per_chunk = generated / max(1, found.chunks)
        before = sum(at <= begin_s for at in each.times_s)
        within = sum(begin_s < at <= end_s for at in each.times_s)
        common += within * per_chunk
        kv_tokens += (found.prompt_tokens or 0) + (before + within / 2) * per_chunk
    if common < batch * _LEAST_COMMON:
        raise CalibrateError(
            f"{batch} requests of {plan.output_tokens} tokens generated {common:.0f} of them together: the server runs "
            "fewer at once, or it does not know ignore_eos. Give a smaller --max-batch, or more --output-tokens"
        )
    return Decode(batch, round(kv_tokens), (end_s - begin_s) * 1000.0 / (common / batch))

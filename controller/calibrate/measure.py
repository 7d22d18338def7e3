"""Asks a server in a way that tells its prefill and decode times apart.

One request at a time gives prefill times: the time to the first token over prompt lengths, cold and behind a cached prefix.
Requests sent together give decode steps: the mean gap between tokens while all of them generate, over batch sizes and prompt
lengths. The server has to be idle otherwise.
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import orjson

from controller.calibrate import chunks
from controller.replay import connection, fetch, target
from penstock.workload import prompts, request

_PATH = "/v1/completions"
_PROBE_TOKENS = 64
# With fewer chunks of each while all generate, there is no mean gap to speak of.
_LEAST_COMMON = 10
# A quick engine ends the first answers before it begins the last: longer answers, up to so many times.
LONGER = 8
# Rounds whose pace differs by more were measured on a server or a machine that did something else as well: then there are
# more of them, up to so many times as were asked for.
STEADY = 0.1
AGAIN = 3
# Shorter prompts are computed in no time.
_WORTH_CACHING = 128
# A short measurement is repeated until it has taken so long, s, or so often: one alone says more of the machine's moment than
# of the engine.
_REPEAT_S = 0.5
_REPEATS = 8


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
    most_together: int
    """Tokens of a batch's prompts together, at most: longer prompts are asked of smaller batches."""
    output_tokens: int = 48
    rounds: int = 3
    timeout_s: float = 120.0
    pause_s: float = 0.0
    """Idle time before each measurement."""
    extra_body: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Fields of every request besides those that measuring needs."""


# Fields of a request that measuring needs as they are.
OWN_FIELDS = frozenset({"model", "prompt", "max_tokens", "ignore_eos", "stream", "stream_options"})


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
    """Everything found. `cached_known`: the server's usage tells cached tokens, so contexts could be measured.

    Of each point the median over all `rounds`. Of the quickest, as many as were asked for, the slowest had a pace of `spread`
    above the best.
    """

    prefills: tuple[Prefill, ...]
    decodes: tuple[Decode, ...]
    cached_known: bool
    rounds: int = 1
    spread: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Got:
    sent_s: float
    found: chunks.Chunks


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
        self._bytes_per_token = len(text) / got.found.prompt_tokens

    def text(self, size_bytes: int) -> str:
        """A text like no other."""
        self._texts += 1
        made = request.TraceRequest(0.0, max(1, size_bytes), 1, "calibrate", self._texts)
        return self._maker.text(made)

    def prompt(self, tokens: int) -> str:
        """A text of about so many tokens, like no other."""
        return self.text(round(tokens * self._bytes_per_token))

    async def rest(self) -> None:
        """Leave the server idle for the plan's pause."""
        await asyncio.sleep(self._plan.pause_s)

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
        fields = {
            **plan.extra_body,
            "model": plan.model,
            "prompt": text,
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body = orjson.dumps(fields)
        found = chunks.Chunks(time.perf_counter)
        sent_s = time.perf_counter()
        on.send(plan.to.head("POST", _PATH, plan.headers), body, found)
        error = await found.done or (None if found.times_s else "no chunk of the answer has a choice")
        if error is not None:
            raise CalibrateError(
                f"{plan.to.authority}: a completion of {len(text):,} bytes and {output_tokens} tokens: {error}"
            )
        if not found.prompt_tokens:
            raise CalibrateError(f"{plan.to.authority}: its answers have no usage.prompt_tokens")
        return _Got(sent_s, found)


_Kind = TypeVar("_Kind", bound=Prefill | Decode)
Asked = tuple[str, int, int]
"""Kind, and its two lengths."""
Round = Mapping[Asked, Prefill | Decode]


async def measure(plan: Plan, on_step: Callable[[int, int], None] = lambda done, of: None) -> Measured:
    """Measure; `on_step(done, of)` is called as it goes on. Raises CalibrateError."""
    client = _Client(plan)
    await client.probe()
    smaller = sorted(plan.prompt_tokens)[: max(1, len(plan.prompt_tokens) // 2)]
    asked: list[Asked] = [("prefill", tokens, 0) for tokens in plan.prompt_tokens]
    asked += [("prefill", tokens, context) for context in plan.contexts for tokens in smaller]
    asked += [
        ("decode", batch, tokens)
        for batch in plan.batches
        for tokens in plan.batch_prompts
        if batch * tokens <= plan.most_together
    ]
    rounds: list[Round] = []
    # Round by round, so that a machine that changes its speed changes all points alike.
    while len(rounds) < plan.rounds or (len(rounds) < AGAIN * plan.rounds and spread(rounds, plan.rounds) > STEADY):
        done, of = len(rounds) * len(asked), max(len(rounds) + 1, plan.rounds) * len(asked)
        found: dict[Asked, Prefill | Decode] = {}
        for number, (kind, first, second) in enumerate(asked):
            one = await (_prefill(client, first, second) if kind == "prefill" else _decode(client, first, second, plan))
            if one is not None:
                found[kind, first, second] = one
            on_step(done + number + 1, of)
        rounds.append(found)
    # Of all rounds: the quickest alone would promise what the machine does not keep.
    medians = [
        _median([each[key] for each in rounds if key in each]) for key in asked if any(key in it for it in rounds)
    ]
    return Measured(
        tuple(each for each in medians if isinstance(each, Prefill)),
        tuple(each for each in medians if isinstance(each, Decode)),
        all(("prefill", tokens, context) in each for each in rounds for context in plan.contexts for tokens in smaller),
        len(rounds),
        spread(rounds, plan.rounds),
    )


def spread(rounds: Sequence[Round], wanted: int) -> float:
    """By how much the slowest was slower than the quickest, of the quickest rounds, as many as are wanted.

    A round's pace is the median, over what was asked, of its time over the best time of any round: others on the machine
    make rounds slower, never quicker.
    """
    best: dict[Asked, float] = {}
    for each in rounds:
        for key, found in each.items():
            best[key] = min(found.measured_ms, best.get(key, found.measured_ms))
    paces = [
        statistics.median([found.measured_ms / best[key] for key, found in each.items()] or [1.0]) for each in rounds
    ]
    paces = sorted(paces)[:wanted]
    return paces[-1] / paces[0] - 1.0


def _median(found: Sequence[_Kind]) -> _Kind:
    return dataclasses.replace(found[0], measured_ms=statistics.median(each.measured_ms for each in found))


async def _prefill(client: _Client, tokens: int, context: int) -> Prefill | None:
    """None where the server does not say how much of a repeated prompt it had cached."""
    before = client.prompt(context) if context else ""
    if context:
        await client.ask(before, 1)

    async def once() -> Prefill | None:
        got = await client.ask(before + client.prompt(tokens), 1)
        found = got.found
        cached = found.cached_tokens or 0
        if context and not cached:
            return None
        return Prefill(found.prompt_tokens - cached, cached, (found.times_s[0] - got.sent_s) * 1000.0)

    return await _repeated(client, once)


async def _decode(client: _Client, batch: int, tokens: int, plan: Plan) -> Decode | None:
    """None where even long answers were not generated together, chunk by chunk."""
    texts = [client.prompt(tokens) for _ in range(batch)]
    if tokens >= _WORTH_CACHING:
        # So that they begin to decode nearly at once, rather than one prefill after the other.
        for text in texts:
            await client.ask(text, 1)
    longer = 1

    async def once() -> Decode | None:
        return _common([got.found for got in await client.together(texts, longer * plan.output_tokens)])

    while True:
        found = await _repeated(client, once)
        if found is not None or longer >= LONGER:
            return found
        longer *= 2


async def _repeated(client: _Client, once: Callable[[], Awaitable[_Kind | None]]) -> _Kind | None:
    """The mean of a measurement and its repetitions; None where one finds nothing."""
    found: list[_Kind] = []
    took_s = 0.0
    while len(found) < _REPEATS and took_s < _REPEAT_S:
        await client.rest()
        began_s = time.perf_counter()
        one = await once()
        took_s += time.perf_counter() - began_s
        if one is None:
            return None
        found.append(one)
    return dataclasses.replace(found[0], measured_ms=statistics.fmean(each.measured_ms for each in found))


def _common(every: Sequence[chunks.Chunks]) -> Decode | None:
    """The mean step while all of them generate; None where that is too short a time."""
    begin_s = max(each.times_s[0] for each in every)
    end_s = min(each.times_s[-1] for each in every)
    common = kv_tokens = 0.0
    seen = 0
    for each in every:
        # A chunk may hold several tokens.
        per_chunk = (each.completion_tokens or len(each.times_s)) / len(each.times_s)
        before = sum(at <= begin_s for at in each.times_s)
        within = sum(begin_s < at <= end_s for at in each.times_s)
        seen += within
        common += within * per_chunk
        kv_tokens += each.prompt_tokens + (before + within / 2) * per_chunk
    # Chunks are counted, not tokens: where a busy server sends many tokens in one, their times are not known.
    if seen < len(every) * _LEAST_COMMON:
        return None
    return Decode(len(every), round(kv_tokens), (end_s - begin_s) * 1000.0 / (common / len(every)))

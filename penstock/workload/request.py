"""What every reader yields, and how a row that cannot be used is told."""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any


class TraceError(Exception):
    """A trace cannot be read at all, or (strict) holds a bad row. Trying again does not help."""


@dataclasses.dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace.

    arrival_s: seconds since the first request of the trace, before any speed-up.
    input_tokens, output_tokens: lengths as the trace states them (or as estimated from its text).
    block_ids: one id per `block_tokens` tokens of the prompt, the last block may be partial; requests whose
    first k
        ids are equal share their first k blocks. None when the trace knows nothing about prefixes.
    text: the prompt itself, when the trace holds it.
    session: requests of one session are turns of one conversation, in order of arrival.
    body: a whole OpenAI request body, when the trace holds one.
    source, line: the file's name and the 1-based line (for a generated request: the line of its time window).
    """

    arrival_s: float
    input_tokens: int
    output_tokens: int
    source: str
    line: int
    block_ids: tuple[int, ...] | None = None
    block_tokens: int | None = None
    text: str | None = None
    session: str | None = None
    body: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out, and why."""

    source: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.reason}"


class RowErrors:
    """Counts bad rows, keeps the first `keep`, and raises `TraceError` at the first one when `strict`."""

    def __init__(self, strict: bool = False, keep: int = 20, on_bad: Callable[[BadRow], None] | None = None) -> None:
        self.strict = strict
        self.count = 0
        self.first: collections.deque[BadRow] = collections.deque()
        self._keep = keep
        self._on_bad = on_bad

    def add(self, source: str, line: int, reason: str) -> None:
        """Record one bad row; raises `TraceError` when strict."""
        row = BadRow(source, line, reason)
        self.count += 1
        if len(self.first) < self._keep:
            self.first.append(row)
        if self._on_bad is not None:
            self._on_bad(row)
        if self.strict:
            raise TraceError(str(row))

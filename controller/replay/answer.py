"""Reads one streamed OpenAI answer: when content came, what `usage` says, and how it ended."""

import array
from collections.abc import Callable
from typing import Any

import msgspec

from penstock.report import outcome

MAX_EVENT_BYTES = 16 * 1024 * 1024


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Chunk)


class Events:
    """Splits a server-sent event stream into the data of its events."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def rest_bytes(self) -> int:
        """Size of the event that is not whole yet."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that `data` completes."""
        text = self._rest + data if self._rest else data
        if b"\r" in text:
            keep = text.endswith(b"\r")
            text = text[: len(text) - keep].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\r" * keep
        *events, self._rest = text.split(b"\n\n")
        return [found for event in events if (found := _data(event))]


def _data(event: bytes) -> bytes:
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    found = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(found)


def has_content(choice: _Choice) -> bool:
    """The choice carries something that the model said: text, reasoning or a call of a tool."""
    if choice.text:
        return True
    delta = choice.delta
    if delta is None:
        return False
    return bool(delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls)


class Answer:
    """A `connection.Reader` that fills an `Outcome`; `on_end(answer, error, any_byte)` is called once, at its
    end.

    error: None, or its kind. `gaps_s` collects the gaps between chunks of content of all answers.
    """

    def __init__(
        self,
        found: outcome.Outcome,
        clock: Callable[[], float],
        gaps_s: "array.array[float]",
        on_end: Callable[["Answer", str | None, bool], None],
    ) -> None:
        self.outcome = found
        self._clock = clock
        self._gaps_s = gaps_s
        self._on_end = on_end
        self._events: Events | None = None
        self._last_s: float | None = None
        self._done = False
        self._error: str | None = None

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Note the status and who answered."""
        self.outcome.status = status
        self.outcome.endpoint = headers.get("x-penstock-endpoint")
        self.outcome.request_id = headers.get("x-request-id")
        if status != 200:
            self._error = f"http_{status}"
        elif headers.get("content-type", "").startswith("text/event-stream"):
            self._events = Events()
        else:
            self._error = "not_a_stream"

    def body(self, data: bytes) -> None:
        """Read the events of a stream; the body of an error answer is dropped unread."""
        events = self._events
        if events is None:
            return
        now_s = self._clock()
        for event in events.feed(data):
            if event == b"[DONE]":
                self._done = True
            else:
                self._event(event, now_s)
        if events.rest_bytes > MAX_EVENT_BYTES:
            self._error, self._events = self._error or "bad_event", None

    def end(self) -> None:
        """The answer is whole as HTTP; as a stream it also needs its `[DONE]`."""
        self._on_end(self, self._error or (None if self._done else "no_done"), True)

    def broken(self, reason: str, any_byte: bool) -> None:
        """The connection ended first, which does not matter once `[DONE]` had come."""
        if self._done or self._error:
            self._on_end(self, self._error, any_byte)
        else:
            self._on_end(self, "cut" if any_byte else reason.split(" ", 1)[0], any_byte)

    def _event(self, event: bytes, now_s: float) -> None:
        try:
            chunk = _DECODER.decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._error = self._error or "bad_event"
            return
        if chunk.error is not None:
            self._error = self._error or "error_event"
        if chunk.usage is not None:
            self._usage(chunk.usage)
        if any(has_content(choice) for choice in chunk.choices):
            self._content(now_s)

    def _content(self, now_s: float) -> None:
        found = self.outcome
        found.chunks += 1
        if self._last_s is None:
            found.first_s = now_s
        else:
            gap_s = now_s - self._last_s
            found.gap_sum_s += gap_s
            found.gap_count += 1
            self._gaps_s.append(gap_s)
        self._last_s = now_s

    def _usage(self, usage: _Usage) -> None:
        found = self.outcome
        found.prompt_tokens = usage.prompt_tokens
        found.completion_tokens = usage.completion_tokens
        if usage.prompt_tokens_details is not None:
            found.cached_tokens = usage.prompt_tokens_details.cached_tokens

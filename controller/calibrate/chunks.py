"""Reads one streamed completion: when each chunk came, whatever text it had, and the usage.

`penstock replay` counts chunks with content, since that is what a client sees. Here a step of the engine is what counts: a
chunk whose token makes no text yet (part of a character) ends a step as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from controller.replay import answer


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_DECODER = msgspec.json.Decoder(_Chunk)


class Chunks:
    """A `connection.Reader`. `done` gets None at the end of a whole answer, else what was wrong."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.times_s: list[float] = []
        self.prompt_tokens = 0
        self.cached_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._clock = clock
        self._events = answer.Events()
        self._error: str | None = None

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Anything but a stream is an error."""
        if status != 200:
            self._error = f"http_{status}"
        elif not headers.get("content-type", "").startswith("text/event-stream"):
            self._error = "not_a_stream"

    def body(self, data: bytes) -> None:
        """Some events."""
        if self._error is not None:
            return
        now_s = self._clock()
        for event in self._events.feed(data):
            if event != b"[DONE]":
                self._event(event, now_s)

    def end(self) -> None:
        """The whole answer is here."""
        self._finish(self._error)

    def broken(self, reason: str, any_byte: bool) -> None:
        """The connection ended first."""
        self._finish(self._error or reason)

    def _finish(self, error: str | None) -> None:
        if not self.done.done():
            self.done.set_result(error)

    def _event(self, event: bytes, now_s: float) -> None:
        try:
            chunk = _DECODER.decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._error = "bad_event"
            return
        if chunk.usage is not None:
            self.prompt_tokens = chunk.usage.prompt_tokens or 0
            self.completion_tokens = chunk.usage.completion_tokens
            if chunk.usage.prompt_tokens_details is not None:
                self.cached_tokens = chunk.usage.prompt_tokens_details.cached_tokens
        # A last chunk may hold the reason of the end and nothing else; the only one there is counts in any case.
        if any(each.text or each.finish_reason is None or not self.times_s for each in chunk.choices):
            self.times_s.append(now_s)

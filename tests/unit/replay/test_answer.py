"""Reading streamed answers byte by byte."""

import array

import pytest

from controller.replay import answer
from penstock.report import outcome

STREAM = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b': comment\n\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"\xc3\xa9"}}]}\r\n\r\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":3}}}\n\n'
    b"data: [DONE]\n\n"
)


def read(stream: bytes, size: int, end: str = "end") -> tuple[outcome.Outcome, str | None]:
    found = outcome.Outcome(1, "t", 0.0, 1, sent_s=0.0)
    ends: list[str | None] = []
    times = iter(range(1, 10_000))
    reader = answer.Answer(
        found, lambda: float(next(times)), array.array("d"), lambda _a, error, _any: ends.append(error)
    )
    reader.head(200, {"content-type": "text/event-stream; charset=utf-8", "x-penstock-endpoint": "e:1"})
    for i in range(0, len(stream), size):
        reader.body(stream[i : i + size])
    reader.end() if end == "end" else reader.broken("connection", True)
    assert len(ends) == 1
    return found, ends[0]


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
@pytest.mark.parametrize("end", ["end", "broken"])
def test_pieces_do_not_matter(size: int, end: str) -> None:
    """However the bytes are cut, the same content and usage is read; a close after [DONE] is no error."""
    found, error = read(STREAM, size, end)
    assert error is None
    assert (found.chunks, found.gap_count, found.endpoint) == (2, 1, "e:1")
    assert (found.prompt_tokens, found.cached_tokens, found.completion_tokens) == (9, 3, 2)


def test_the_first_content_counts_not_the_first_event() -> None:
    """A chunk that only names the role is not the first token."""
    found, _ = read(STREAM, STREAM.index(b"\n\n") + 2)
    assert found.first_s is not None
    assert found.first_s > 1.0


@pytest.mark.parametrize(
    ("stream", "end", "kind"),
    [
        (STREAM.replace(b"data: [DONE]\n\n", b""), "end", "no_done"),
        (STREAM.replace(b"data: [DONE]\n\n", b""), "broken", "cut"),
        (b'data: {"error":{"message":"x"}}\n\n' + STREAM, "end", "error_event"),
        (b'event: error\ndata: {"error":"x"}\n\n', "broken", "error_event"),
        (b"data: {nonsense\n\ndata: [DONE]\n\n", "end", "bad_event"),
    ],
)
def test_error_kinds(stream: bytes, end: str, kind: str) -> None:
    """How a stream fails is told by its kind."""
    assert read(stream, 50, end)[1] == kind

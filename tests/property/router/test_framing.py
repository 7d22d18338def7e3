"""Framing of answers on whatever an engine may send."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from router.dataplane import framing

LINES = st.sampled_from([
    b"content-length: 5", b"Content-Length:7", b"content-length:\t12", b"content-length: 5 ", b"content-length: x", b"content-length:",
    b"content-length: 1" + b"0" * 17, b"content-length: 1" + b"0" * 30, b"content-length: +5", b"content-length : 5", b"content-lengthy: 5",
    b"transfer-encoding: chunked", b"Transfer-Encoding:CHUNKED", b"transfer-encoding: gzip, chunked", b"transfer-encoding: chunked ",
    b"transfer-encoding: identity", b"connection: close", b"Connection: keep-alive", b"keep-alive: timeout=5", b"x-request-id: abc",
    b"trailer: x", b"te: trailers", b"te : x", b"team: a", b"upgrade: h2c", b"proxy-authenticate: x", b"content-type: application/json", b"a: b",
    b"A-B: c: d", b"date: Sat, 21 Nov 2026 09:27:53 GMT", b"no colon", b": no name", b" folded", b"\tfolded", b"", b"x: content-length: 9", b"x:",
])  # fmt: skip
STATUS_LINES = st.sampled_from([
    b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified", b"HTTP/1.1 100 Continue", b"HTTP/1.1 199 X",
    b"HTTP/1.1 503 Service Unavailable", b"HTTP/1.1 200", b"HTTP/1.1 20", b"HTTP/1.1 2000 OK", b"HTTP/2 200", b"", b"HTTP/1.1 abc OK", b"ICY 200 OK",
])  # fmt: skip


def parsed(parse: object, raw: bytes) -> framing.Head | None:
    try:
        head = parse(raw)  # type: ignore[operator]
    except framing.FramingError:
        return None
    assert isinstance(head, framing.Head)
    return head


def meaning(head: framing.Head | None) -> tuple[object, ...] | None:
    if head is None:
        return None
    return head.status, head.status_line, head.headers, head.length, head.chunked, head.keep_alive


@settings(max_examples=600, deadline=None)
@given(STATUS_LINES, st.lists(LINES, max_size=6))
@example(b"HTTP/1.1 200 OK", [b"content-type: application/json", b"content-length: 5"])
def test_quick_path_says_what_the_careful_one_says(status_line: bytes, lines: list[bytes]) -> None:
    """A head taken as it is has the same meaning as one that is looked at line by line, and neither raises anything else."""
    raw = b"\r\n".join((status_line, *lines))
    assert meaning(parsed(framing.parse_head, raw)) == meaning(parsed(framing._parse_carefully, raw))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(STATUS_LINES, st.lists(LINES, max_size=4)), min_size=2, max_size=5), st.data())
@example([(b"HTTP/1.1 200 OK", [b"a: b", b"content-length: 5"])] * 2, None)
def test_memory_of_heads_says_what_the_parser_says(heads: list[tuple[bytes, list[bytes]]], data: st.DataObject) -> None:
    """Whatever heads one engine sends one after the other, each means what it means alone."""
    memory = framing.HeadMemory()
    known = [b"\r\n".join((status_line, *lines)) for status_line, lines in heads]
    for turn in range(12):
        raw = known[turn % len(known) if data is None else data.draw(st.integers(0, len(known) - 1))]
        raw = raw.replace(b"length: 5", b"length: %d" % (5 + turn % 3))
        assert meaning(parsed(memory.parse, raw)) == meaning(parsed(framing.parse_head, raw))


@given(st.lists(LINES, max_size=6))
def test_forwarded_headers_carry_nothing_of_this_hop(lines: list[bytes]) -> None:
    """What goes to the client has no hop-by-hop header, no id but ours, and at most one way to frame the body."""
    head = parsed(framing.parse_head, b"\r\n".join((b"HTTP/1.1 200 OK", *lines)))
    assume(head is not None)
    assert head is not None
    names = [line.partition(b":")[0].lower() for line in head.headers.split(b"\r\n")]
    assert not set(names) & {
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"upgrade",
        b"x-request-id",
        b"proxy-authenticate",
    }
    assert not (b"content-length" in names and b"transfer-encoding" in names)
    assert head.headers == b"" or head.headers.endswith(b"\r\n")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_a_framing_error(raw: bytes) -> None:
    """No head makes the parser raise something else."""
    parsed(framing.parse_head, raw)
    parsed(framing.parse_head, b"HTTP/1.1 200 OK\r\n" + raw)


def encoded(chunks: list[bytes], extension: bytes = b"", trailers: bytes = b"") -> bytes:
    parts = [b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks]
    return b"".join(parts) + b"0\r\n" + trailers + b"\r\n"


def is_whole(data: bytes) -> bool:
    """Whether these bytes are whole chunks."""
    while data:
        line, end, rest = data.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16) if end else -1
        if size == 0:
            return True
        if size < 0 or rest[size : size + 2] != b"\r\n":
            return False
        data = rest[size + 2 :]
    return True


@settings(deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=60), max_size=8),
    st.sampled_from([b"", b";x=1", b"; a"]),
    st.sampled_from([b"", b"x: 1\r\n", b"x: 1\r\ny: 2\r\n"]),
    st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n"]),
    st.lists(st.integers(0, 700), max_size=12),
    st.sampled_from([1 << 16, 20, 0]),
)
def test_scanner_on_any_split(
    chunks: list[bytes], extension: bytes, trailers: bytes, after: bytes, cuts: list[int], whole_bytes: int
) -> None:
    """However a chunked body arrives, whole chunks are forwarded, nothing is lost or added, and its end is found."""
    body = encoded(chunks, extension, trailers)
    data = body + after
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    scanner = framing.ChunkScanner(whole_bytes)
    forwarded = rest = b""
    for start, end in itertools.pairwise(edges):
        if scanner.complete:
            rest += data[start:end]
            continue
        part, late = scanner.feed(data[start:end])
        forwarded += part
        rest += late
        if whole_bytes > 60:
            assert is_whole(part)
        assert scanner.inside == 0 or whole_bytes <= 60
    assert scanner.complete
    assert forwarded == body
    assert rest == after
    assert framing.dechunk(forwarded) == b"".join(chunks)


@pytest.mark.parametrize(
    "data",
    [b"\r\n", b"g\r\n", b"-1\r\n", b"0x5\r\nhello\r\n", b" 5\r\nhello\r\n", b"5 \r\nhello\r\n", b"5\r\nhelloXX", b"5\r\nhell\r\n\r\n",
     b"f" * 16 + b"\r\n", b"1" * 300, b";x\r\n", b"+5\r\nhello\r\n", b"5_0\r\n"],
)  # fmt: skip
def test_malformed_chunks_are_refused(data: bytes) -> None:
    """A size that is not plain hexadecimal, or a chunk that does not end where it says, is an error."""
    with pytest.raises(framing.FramingError):
        framing.ChunkScanner().feed(data)


def test_trailers_are_bounded() -> None:
    """An answer's trailers cannot be collected without end."""
    scanner = framing.ChunkScanner()
    with pytest.raises(framing.FramingError, match="trailers"):
        for _ in range(100):
            scanner.feed(b"0\r\nx: " + b"a" * 1_000 if not scanner.pending else b"a" * 1_000)

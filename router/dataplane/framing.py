"""Framing of an engine's answer: head, then a body by length, in chunks, or until the connection closes.

Bytes are forwarded as they came; framing only says where the answer ends and where it may be cut without breaking the
client's own framing. An answer that is ambiguous (RFC 9112, section 6.3) is refused, never guessed at.
"""

from __future__ import annotations

import re
from typing import final

MAX_HEAD_BYTES = 65_536
# A chunk up to this size is forwarded whole, so that a broken stream can be ended by an event of ours.
WHOLE_CHUNK_BYTES = 65_536
_MAX_SIZE_LINE = 256
_HEX = b"0123456789abcdefABCDEF"


class FramingError(ValueError):
    """The answer is not valid HTTP/1.1."""


@final
class Head:
    """Head of an answer. `length` is None where the body comes in chunks or lasts until the connection closes."""

    __slots__ = ("chunked", "headers", "keep_alive", "length", "status", "status_line")

    def __init__(
        self, status: int, status_line: bytes, headers: bytes, length: int | None, chunked: bool, keep_alive: bool
    ) -> None:
        self.status = status
        self.status_line = status_line
        self.headers = headers
        self.length = length
        self.chunked = chunked
        self.keep_alive = keep_alive


# What frames a head, and what makes it need the careful way: hop-by-hop names, folded or odd lines, other versions.
_FRAMING = re.compile(
    rb"\r\n(?:(content-length:[ \t]*)(\d{1,18})(?=\r\n|$)|(transfer-encoding:[ \t]*chunked)(?=\r\n|$)"
    rb"|content-length|transfer-encoding|connection|keep-alive|x-request-id|trailer|upgrade|te[ \t:]|proxy-auth"
    rb"|[ \t:]|[^:\r\n]*(?:\r|$))",
    re.IGNORECASE,
)


def parse_head(raw: bytes) -> Head:
    """Parses an answer's head, `raw` ending before the empty line. `headers` has the hop-by-hop ones taken out.

    Raises FramingError. The usual head (HTTP/1.1, one length or chunks, nothing hop-by-hop) is taken as it is.
    """
    found = _FRAMING.findall(raw)
    if not _is_usual(raw, found):
        return _parse_carefully(raw)
    digits = found[0][1]
    return _usual(raw, int(raw[9:12]), int(digits) if digits else None)


def _is_usual(raw: bytes, found: list[tuple[bytes, ...]]) -> bool:
    """Whether nothing but the length or the chunks, which `_FRAMING` found, says how the answer is framed."""
    status = raw[9:12]
    return (
        len(found) == 1
        and bool(found[0][1] or found[0][2])
        and raw.startswith(b"HTTP/1.1 ")
        and status.isdigit()
        and status >= b"200"
        and status != b"204"
        and status != b"304"
    )


def _usual(raw: bytes, status: int, length: int | None) -> Head:
    line_end = raw.find(b"\r\n")
    return Head(status, raw[:line_end], raw[line_end + 2 :] + b"\r\n", length, length is None, True)


@final
class HeadMemory:
    """Parses the heads of one engine's answers. One that differs from the one before in its length alone costs little."""

    __slots__ = ("_after", "_before", "_sized", "_status")

    def __init__(self) -> None:
        # The last usual head: up to the number that is its length and from there on, or all of it and nothing.
        self._before = b""
        self._after = b""
        self._sized = False
        # Its status, 0 while there is none.
        self._status = 0

    def parse(self, raw: bytes) -> Head:
        """As `parse_head`. Raises FramingError."""
        status = self._status
        if status and raw.startswith(self._before):
            start = len(self._before)
            if not self._sized:
                if len(raw) == start:
                    return _usual(raw, status, None)
            elif raw.endswith(self._after):
                digits = raw[start : len(raw) - len(self._after)]
                if digits.isdigit() and len(digits) <= 18:
                    return _usual(raw, status, int(digits))
        head = parse_head(raw)
        self._learn(raw, head)
        return head

    def _learn(self, raw: bytes, head: Head) -> None:
        self._status = 0
        if not _is_usual(raw, _FRAMING.findall(raw)):
            return
        self._status = head.status
        self._sized = not head.chunked
        if head.chunked:
            self._before, self._after = raw, b""
        else:
            match = _FRAMING.search(raw)
            assert match is not None
            self._before, self._after = raw[: match.start(2)], raw[match.end(2) :]


def _parse_carefully(raw: bytes) -> Head:
    line_end = raw.find(b"\r\n")
    if line_end < 0:
        line_end = len(raw)
    status_line = raw[:line_end]
    if not status_line.startswith(b"HTTP/1.") or not status_line[9:12].isdigit() or len(status_line) < 12:
        raise FramingError("status line is not HTTP/1.x")
    status = int(status_line[9:12])
    keep_alive = status_line[7:8] == b"1"
    length: int | None = None
    chunked = False
    kept: list[bytes] = []
    for line in raw[line_end + 2 :].split(b"\r\n") if line_end < len(raw) else ():
        colon = line.find(b":")
        if colon < 1:
            raise FramingError("header line without a name")
        name = line[:colon].lower()
        if name == b"content-length":
            value = line[colon + 1 :].strip()
            if not value.isdigit() or (length is not None and length != int(value)):
                raise FramingError("content-length is not one number")
            length = int(value)
        elif name == b"transfer-encoding":
            if line[colon + 1 :].strip().lower() != b"chunked":
                raise FramingError("transfer-encoding other than chunked")
            chunked = True
        elif name == b"connection":
            if b"close" in line.lower():
                keep_alive = False
            continue
        elif name in (b"keep-alive", b"proxy-authenticate", b"te", b"trailer", b"upgrade", b"x-request-id"):
            continue
        kept.append(line)
    if chunked and length is not None:
        raise FramingError("both content-length and transfer-encoding")
    if status in (204, 304) or 100 <= status < 200:
        length = 0
    kept.append(b"")
    return Head(status, status_line, b"\r\n".join(kept), length, chunked, keep_alive)


class ChunkScanner:
    """Finds the ends of chunks in a body as it arrives."""

    __slots__ = ("complete", "data_bytes", "inside", "pending", "whole_bytes")

    def __init__(self, whole_bytes: int = WHOLE_CHUNK_BYTES) -> None:
        self.whole_bytes = whole_bytes
        # Bytes that are not yet forwarded: the beginning of a chunk.
        self.pending = b""
        # Bytes still to come of a large chunk whose beginning was forwarded.
        self.inside = 0
        self.complete = False
        self.data_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Takes what arrived; returns what may be forwarded now, and what came after the end of the body."""
        if self.pending:
            data = self.pending + data
            self.pending = b""
        position = 0
        total = len(data)
        if self.inside:
            if total <= self.inside:
                self.inside -= total
                return data, b""
            position = self.inside
            self.inside = 0
        while position < total:
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                if total - position > _MAX_SIZE_LINE:
                    raise FramingError("chunk size line is too long")
                break
            size = _chunk_size(data[position:line_end])
            if size == 0:
                end = self._trailer_end(data, line_end)
                if end < 0:
                    break
                self.complete = True
                return data[:end], data[end:]
            end = line_end + size + 4
            if end > total:
                if size > self.whole_bytes:
                    self.inside = end - total
                    position = total
                break
            if data[end - 2 : end] != b"\r\n":
                raise FramingError("chunk does not end where its size says")
            self.data_bytes += size
            position = end
        if position == total:
            return data, b""
        self.pending = data[position:]
        return data[:position], b""

    @staticmethod
    def _trailer_end(data: bytes, line_end: int) -> int:
        if data[line_end + 2 : line_end + 4] == b"\r\n":
            return line_end + 4
        end = data.find(b"\r\n\r\n", line_end)
        if end < 0 and len(data) - line_end > MAX_HEAD_BYTES:
            raise FramingError("trailers are too long")
        return end + 4 if end >= 0 else -1


def _chunk_size(line: bytes) -> int:
    number = line.partition(b";")[0].rstrip(b" \t") if b";" in line else line
    if not number or number.strip(_HEX) or len(number) > 15:
        raise FramingError("chunk size is not hexadecimal")
    return int(number, 16)


def dechunk(data: bytes) -> bytes:
    """Payload of whole chunks (of what `ChunkScanner.feed` returned), for a client that does not know chunks."""
    parts: list[bytes] = []
    position = 0
    while position < len(data):
        line_end = data.find(b"\r\n", position)
        size = _chunk_size(data[position:line_end])
        if size == 0:
            break
        parts.append(data[line_end + 2 : line_end + 2 + size])
        position = line_end + size + 4
    return b"".join(parts)

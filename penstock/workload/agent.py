"""Agent traces: JSON lines with `timestamp` (us), `input` (the full prompt text), `output`, `session_id`.

Source: LMCache/lmcache-agent-trace. Lines within a file are in order of completion, not of arrival.
"""

import dataclasses
import pathlib
import random
from collections.abc import Iterator
from typing import Any

from penstock.workload import options, request, rows


def read(path: pathlib.Path, opts: options.ReadOptions, errors: request.RowErrors) -> Iterator[request.TraceRequest]:
    """Requests of all sessions in order of arrival; lengths are estimated at `opts.bytes_per_token`."""
    found: list[request.TraceRequest] = []
    for file in rows.files(path, "*.jsonl"):

        def parse(row: dict[str, Any], line: int, source: str = file.name) -> request.TraceRequest:
            return _parse(row, line, source, opts.bytes_per_token)

        found.extend(rows.parsed(file, parse, errors))
    if opts.session_shift_s:
        found = [_shifted(each, opts) for each in found]
    yield from sorted(found, key=lambda each: each.arrival_s)


def _shifted(each: request.TraceRequest, opts: options.ReadOptions) -> request.TraceRequest:
    """All turns of a session move together."""
    shift_s = random.Random(f"{opts.seed}/{each.session}").uniform(0.0, opts.session_shift_s)
    return dataclasses.replace(each, arrival_s=each.arrival_s + shift_s)


def _parse(row: dict[str, Any], line: int, source: str, bytes_per_token: float) -> request.TraceRequest:
    text = rows.text(row, "input")
    if not text:
        raise rows.RowError("'input' is empty")
    return request.TraceRequest(
        arrival_s=rows.number(row, "timestamp") / 1e6,
        input_tokens=estimate_tokens(text, bytes_per_token),
        # An empty output is a call of a tool, whose tokens the trace does not hold.
        output_tokens=estimate_tokens(rows.text(row, "output"), bytes_per_token),
        source=source,
        line=line,
        text=text,
        session=rows.text(row, "session_id"),
    )


def estimate_tokens(text: str, bytes_per_token: float) -> int:
    """Tokens of a text by its size in UTF-8, at least 1."""
    return max(1, round(len(text.encode("utf-8", "replace")) / bytes_per_token))

"""Azure LLM inference traces: CSV with `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`.

Source: Azure/AzurePublicDataset (Splitwise, ISCA 2024). No prefixes, no text: every prompt is its own.
"""

import csv
import datetime
import pathlib
from collections.abc import Iterator

from penstock.workload import options, request, rows

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read(path: pathlib.Path, opts: options.ReadOptions, errors: request.RowErrors) -> Iterator[request.TraceRequest]:
    """Requests in order of arrival. Raises `TraceError` when the head line is not Azure's."""
    found: list[request.TraceRequest] = []
    for file in rows.files(path, "*.csv"):
        found.extend(_file(file, errors))
    yield from sorted(found, key=lambda each: each.arrival_s)


def _file(file: pathlib.Path, errors: request.RowErrors) -> Iterator[request.TraceRequest]:
    lines = rows.lines(file)
    _, head = next(lines, (1, b""))
    names = head.decode("utf-8-sig", "replace").split(",")
    if missing := [name for name in COLUMNS if name not in names]:
        raise request.TraceError(
            f"{file}:1: no column {', '.join(missing)}; the head line must name {', '.join(COLUMNS)}"
        )
    for line, text in lines:
        try:
            yield _parse(names, text, line, file.name)
        except rows.RowError as exc:
            errors.add(file.name, line, str(exc))


def _parse(names: list[str], text: bytes, line: int, source: str) -> request.TraceRequest:
    values = next(csv.reader([text.decode("utf-8", "replace")]))
    if len(values) != len(names):
        raise rows.RowError(f"{len(values)} fields, {len(names)} are needed")
    row = dict(zip(names, values, strict=True))
    return request.TraceRequest(
        arrival_s=_seconds(row["TIMESTAMP"]),
        input_tokens=_count(row, "ContextTokens", 1),
        output_tokens=_count(row, "GeneratedTokens", 0),
        source=source,
        line=line,
    )


def _seconds(stamp: str) -> float:
    try:
        when = datetime.datetime.fromisoformat(stamp)
    except ValueError as exc:
        raise rows.RowError(f"'TIMESTAMP' is {stamp[:40]!r}, YYYY-MM-DD hh:mm:ss.fffffff is needed") from exc
    return when.replace(tzinfo=when.tzinfo or datetime.UTC).timestamp()


def _count(row: dict[str, str], key: str, least: int) -> int:
    try:
        value = int(row[key])
    except ValueError as exc:
        raise rows.RowError(f"'{key}' is {row[key][:40]!r}, a whole number is needed") from exc
    return rows.tokens({key: value}, key, least)

"""Mooncake traces: `timestamp` (ms), `input_length`, `output_length` (tokens), `hash_ids` (one per 512-token
block).

Source: kvcache-ai/Mooncake, FAST25-release/traces. Its clock ticks about every 3 s, so that up to a dozen
requests share a timestamp and nothing comes in between; replayed as it stands, that is a load of bursts which
no client ever made.
"""

import dataclasses
import itertools
import pathlib
import random
import statistics
from collections.abc import Iterator
from typing import Any

from penstock.workload import options, request, rows

BLOCK_TOKENS = 512


def read(path: pathlib.Path, opts: options.ReadOptions, errors: request.RowErrors) -> Iterator[request.TraceRequest]:
    """Requests in order of arrival, spread over each tick of the trace's clock unless `opts.raw_times`."""
    found: list[request.TraceRequest] = []
    for file in rows.files(path, "*.jsonl"):

        def parse(row: dict[str, Any], line: int, source: str = file.name) -> request.TraceRequest:
            return _parse(row, line, source)

        found.extend(rows.parsed(file, parse, errors))
    found.sort(key=lambda each: each.arrival_s)
    yield from found if opts.raw_times else spread(found, random.Random(opts.seed))


def _parse(row: dict[str, Any], line: int, source: str) -> request.TraceRequest:
    input_tokens = rows.tokens(row, "input_length", 1)
    ids = row.get("hash_ids")
    if not isinstance(ids, list) or not all(type(each) is int for each in ids):
        raise rows.RowError("'hash_ids' is not a list of whole numbers")
    wanted = -(-input_tokens // BLOCK_TOKENS)
    if len(ids) != wanted:
        raise rows.RowError(
            f"'hash_ids' has {len(ids)} ids, {input_tokens} tokens need {wanted} blocks of {BLOCK_TOKENS}"
        )
    return request.TraceRequest(
        arrival_s=rows.number(row, "timestamp") / 1000,
        input_tokens=input_tokens,
        output_tokens=rows.tokens(row, "output_length", 0),
        source=source,
        line=line,
        block_ids=tuple(ids),
        block_tokens=BLOCK_TOKENS,
    )


def spread(found: list[request.TraceRequest], rng: random.Random) -> Iterator[request.TraceRequest]:
    """Requests that share a timestamp, at uniformly drawn times until the next timestamp (at most one usual
    tick).

    Uniform draws are what a Poisson process looks like when only its count per tick is known. `found` is in
    order of arrival; the order stays.
    """
    if not found:
        return
    groups = [list(group) for _, group in itertools.groupby(found, key=lambda each: each.arrival_s)]
    stamps = [group[0].arrival_s for group in groups]
    gaps = [after - before for before, after in itertools.pairwise(stamps)]
    tick_s = statistics.median(gaps) if gaps else 0.0
    for group, gap_s in zip(groups, [*gaps, tick_s], strict=True):
        if len(group) == 1:
            yield group[0]
            continue
        width_s = min(gap_s, tick_s)
        for each, offset in zip(group, sorted(rng.random() for _ in group), strict=True):
            yield dataclasses.replace(each, arrival_s=each.arrival_s + offset * width_s)

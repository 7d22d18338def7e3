"""Agent sessions for a real vLLM whose tokens are bytes, and the same for the simulator."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

import orjson

from benchmarks.fidelity import fleet
from penstock.workload import formats, options, request

BLOCK_TOKENS = 32
# Ids of the tiny model that are printable characters: a client sees each token as it comes.
SAMPLING = {"allowed_token_ids": tuple(range(10, 60))}


def sessions(folder: pathlib.Path, gap_s: float, output_tokens: int) -> list[request.TraceRequest]:
    """The sessions' turns, a session beginning each `gap_s`; its turns keep their times. Blocks are those of an engine.

    Raises request.TraceError.
    """
    found = list(formats.read(folder, "agent", options.ReadOptions(), request.RowErrors()))
    begun: dict[str, tuple[int, float]] = {}
    ids: dict[bytes, int] = {}
    turns = []
    for each in found:
        assert each.text is not None and each.session is not None
        place, first_s = begun.setdefault(each.session, (len(begun), each.arrival_s))
        at_s = each.arrival_s - first_s + place * gap_s
        text = each.text.encode("utf-8", "replace")
        turns.append(
            request.TraceRequest(
                at_s, len(text), output_tokens, each.source, each.line, tuple(_blocks(text, ids)), BLOCK_TOKENS,
                text=each.text, session=each.session,
            )
        )  # fmt: skip
    return sorted(turns, key=lambda each: each.arrival_s)


def _blocks(text: bytes, ids: dict[bytes, int]) -> Iterator[int]:
    """One id per block, the unfinished last one included; equal beginnings have equal ids."""
    for end in range(BLOCK_TOKENS, len(text) + BLOCK_TOKENS, BLOCK_TOKENS):
        yield ids.setdefault(text[:end], len(ids))


def for_simulator(turns: Sequence[request.TraceRequest]) -> list[request.TraceRequest]:
    """Known by their blocks."""
    return [
        request.TraceRequest(
            each.arrival_s, each.input_tokens, each.output_tokens, each.source, each.line, each.block_ids, BLOCK_TOKENS
        )
        for each in turns
    ]


def write(turns: Sequence[request.TraceRequest], path: pathlib.Path) -> None:
    """As OpenAI bodies with timestamps."""
    with path.open("wb") as out:
        for each in turns:
            body = {
                "timestamp": each.arrival_s,
                "model": fleet.MODEL,
                "prompt": each.text,
                "max_tokens": each.output_tokens,
                "ignore_eos": True,
                **SAMPLING,
            }
            out.write(orjson.dumps(body) + b"\n")

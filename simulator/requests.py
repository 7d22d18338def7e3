"""Requests as the simulator sees them: lengths, and the hashes of their prompts for gateways and for engines."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import xxhash

from penstock.workload import prompts, request
from router.index import blocks

BYTES_PER_TOKEN = 4
# Ids below this can be expanded into smaller blocks without meeting those of another id.
_ID_LIMIT = 1 << 48


class BlockSizeError(ValueError):
    """The engine's blocks do not fit into the workload's."""


@dataclasses.dataclass(slots=True)
class Request:
    """One request that arrives at a gateway.

    `hashes` are those of the prompt's full blocks as gateways see it, `blocks` as engines do.
    """

    arrival_s: float
    input_tokens: int
    output_tokens: int
    hashes: list[int]
    blocks: list[int]
    source: str = ""
    line: int = 0
    session: int | None = None
    group: int = 0
    """Index of its SLO class."""
    model: int = 0
    tenant: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Blocks:
    """How prompts are cut for gateways: `tokens` each where the workload names blocks; None: as production cuts text."""

    tokens: int | None

    def size_of(self) -> Callable[[int], int]:
        """Bytes of the block at a position, for the prefix index."""
        if self.tokens is None:
            return blocks.size_of
        size = self.tokens * BYTES_PER_TOKEN
        return lambda position: size

    def tokens_at(self) -> Callable[[int], int] | None:
        """Tokens of the first n blocks; None where the gateway's own rule holds."""
        tokens = self.tokens
        return None if tokens is None else lambda count: count * tokens


def cut(found: Iterable[request.TraceRequest], block_size: int) -> tuple[Blocks, Iterator[Request]]:
    """The requests of a trace for engines of `block_size` tokens per block, and how gateways cut their prompts.

    A prompt is known by its block ids, by its text, or (a trace of lengths alone) is unlike all others.
    Raises BlockSizeError where `block_size` does not divide the trace's.
    """
    rest = iter(found)
    head = next(rest, None)
    if head is None:
        return Blocks(block_size), iter(())
    whole = itertools.chain((head,), rest)
    if head.text is not None or head.body is not None:
        return Blocks(None), (_of_text(each, block_size) for each in whole)
    size = head.block_tokens or block_size
    if size % block_size:
        raise BlockSizeError(f"block_size is {block_size}; it must divide the trace's blocks of {size} tokens")
    return Blocks(size), _of_ids(whole, size, block_size)


def of_ids(ids: Sequence[int], input_tokens: int, size: int, block_size: int) -> tuple[list[int], list[int]]:
    """Hashes for gateways and for engines of a prompt whose blocks of `size` tokens have these ids.

    The unfinished last block is left out, as gateways and engines do; the engine's smaller blocks within it are not.
    """
    hashes = list(ids[: input_tokens // size])
    ratio = size // block_size
    if ratio == 1:
        return hashes, hashes
    expanded = [number * ratio + part for number in ids for part in range(ratio)]
    return hashes, expanded[: input_tokens // block_size]


def _of_ids(found: Iterable[request.TraceRequest], size: int, block_size: int) -> Iterator[Request]:
    fresh = _ID_LIMIT
    for each in found:
        ids = each.block_ids
        if ids is None:
            count = -(-each.input_tokens // size)
            ids = tuple(range(fresh, fresh + count))
            fresh += count
        hashes, engine = of_ids(ids, each.input_tokens, size, block_size)
        yield _made(each, each.input_tokens, hashes, engine)


def _of_text(each: request.TraceRequest, block_size: int) -> Request:
    text = _text(each).encode("utf-8", "replace")
    tokens = max(1, len(text) // BYTES_PER_TOKEN)
    size = block_size * BYTES_PER_TOKEN
    digest = xxhash.xxh3_64_intdigest
    engine: list[int] = []
    seed = 0
    for end in range(size, len(text) + 1, size):
        seed = digest(text[end - size : end], seed)
        engine.append(seed)
    return _made(each, tokens, blocks.chain(text, 0), engine)


def _text(each: request.TraceRequest) -> str:
    if each.body is None:
        return prompts.Prompts().text(each) if each.text is None else each.text
    messages, prompt = each.body.get("messages"), each.body.get("prompt")
    if isinstance(messages, list):
        return "".join(f"\x1e{one.get('role')}\x1f{one.get('content')}" for one in messages)
    return prompt if isinstance(prompt, str) else str(prompt)


def _made(each: request.TraceRequest, tokens: int, hashes: list[int], engine: list[int]) -> Request:
    session = None if each.session is None else xxhash.xxh3_64_intdigest(each.session.encode())
    return Request(
        each.arrival_s,
        tokens,
        max(1, each.output_tokens),
        hashes,
        engine,
        each.source,
        each.line,
        session,
    )

"""Prompt text whose shared prefixes are exactly those of a trace.

A block's text is a function of its id alone: it starts with a mark that no other id has, so that two prompts
part inside the first bytes of the first block that differs, and goes on with words cut from one pool of text.
Cutting is cheaper
than keeping blocks: nothing grows with the trace.
"""

import hashlib
import random

from penstock.workload import request

_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"
_MARK_CHARS = 13
_MASK = (1 << 64) - 1
_POOL_BYTES = 1 << 18
# Common words of three letters: with the blank before them, 4 bytes and one token for most tokenizers.
_WORD_LIST = (
    "the and for are but not you all any can had her was one our out day get has him his how man new now "
    "old see two way who boy did its let put say she too use act add age ago aid air arm art ask bad bag "
    "bar bed big bit box bus buy car cat cup cut dog dry due eat egg end eye far fat few fit fly fun gas "
    "god gun hat hit hot ice ill job key kid law lay leg lie lot low map mix net nor odd off oil own pay "
    "per pop red run sad sea set sit six sky son sum sun tax tea ten tie tip top toy try van war wet why "
    "win yes yet "
)


class Prompts:
    """Builds prompts. The same seed, ids and lengths give the same text, in any order and any process.

    bytes_per_token: size of the text per token of the trace; 4 is usual for English.
    """

    def __init__(self, seed: int = 0, bytes_per_token: float = 4.0) -> None:
        if not 0 < bytes_per_token <= 16:
            raise ValueError(f"bytes_per_token is {bytes_per_token}, above 0 and up to 16 is allowed")
        self._bytes_per_token = bytes_per_token
        self._offset = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "little")
        self._pool = _pool(seed)

    def text(self, asked: request.TraceRequest) -> str:
        """The prompt of one request: its own text, else made from its block ids, else unlike all others."""
        if asked.text is not None:
            return asked.text
        size = max(1, round(asked.input_tokens * self._bytes_per_token))
        if asked.block_ids is None or asked.block_tokens is None:
            return self._block(self._private_id(asked), size)
        block_bytes = round(asked.block_tokens * self._bytes_per_token)
        full, rest = divmod(size, block_bytes)
        blocks = [self._block(each, block_bytes) for each in asked.block_ids[:full]]
        if rest and len(asked.block_ids) > full:
            blocks.append(self._block(asked.block_ids[full], rest))
        return "".join(blocks)

    def _private_id(self, asked: request.TraceRequest) -> int:
        name = f"{asked.source}:{asked.line}:{asked.arrival_s!r}:{asked.input_tokens}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")

    def _block(self, block_id: int, size: int) -> str:
        # Multiplying by an odd number modulo 2^64 maps ids one to one, and makes neighbours differ in early
        # digits.
        mixed = (block_id * 0x9E3779B97F4A7C15 + self._offset) & _MASK
        mark = _mark(mixed)
        start = (mixed >> 24) % (_POOL_BYTES // 4) * 4
        text = mark + self._pool[start : start + size]
        while len(text) < size:
            text += self._pool
        return text[:size]


def _mark(value: int) -> str:
    digits = []
    for _ in range(_MARK_CHARS):
        digits.append(_DIGITS[value & 31])
        value >>= 5
    return "".join(digits)


def _pool(seed: int) -> str:
    rng = random.Random(seed)
    return "".join(f" {word}" for word in rng.choices(_WORD_LIST.split(), k=_POOL_BYTES // 4))

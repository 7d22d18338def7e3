"""A made-up tokenizer: a token is a fixed number of UTF-8 bytes, so no token list is needed for a big prompt.

Text is padded with zero bytes to whole tokens, and a token's id is its bytes as a little-endian integer. So ids and
text convert both ways, and a prompt hashes to the same blocks whether it came as text or as ids.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import xxhash

_PHRASE = b"simulated text of no model. "


class UnknownToken(ValueError):
    """A token id that this vocabulary does not have."""


class Tokenizer:
    """Text to tokens of `bytes_per_token` bytes and back."""

    def __init__(self, bytes_per_token: int) -> None:
        self.width = bytes_per_token
        self.vocab_size = 256**bytes_per_token

    def encode(self, text: str) -> bytes:
        """Whole tokens as bytes, the last one padded with zeros."""
        data = text.encode("utf-8", "surrogatepass")
        return data + bytes(-len(data) % self.width)

    def ids(self, data: bytes) -> list[int]:
        """Token ids of whole tokens."""
        wide = np.zeros((len(data) // self.width, 8), dtype=np.uint8)
        wide[:, : self.width] = np.frombuffer(data, dtype=np.uint8).reshape(-1, self.width)
        ids: list[int] = wide.view("<u8").ravel().tolist()
        return ids

    def from_ids(self, ids: Sequence[int]) -> bytes:
        """Bytes of the tokens. Raises UnknownToken for an id outside the vocabulary."""
        for token in (min(ids, default=0), max(ids, default=0)):
            if not 0 <= token < self.vocab_size:
                raise UnknownToken(f"Token id {token} is out of vocabulary (0 to {self.vocab_size - 1}).")
        wide = np.array(ids, dtype="<u8").reshape(-1, 1).view(np.uint8)
        return wide[:, : self.width].tobytes()

    def text(self, data: bytes) -> str:
        """The text that the tokens stand for, without padding."""
        return data.replace(b"\0", b"").decode("utf-8", "replace")

    def count(self, data: bytes) -> int:
        """Number of whole tokens."""
        return len(data) // self.width

    def render_chat(self, messages: Sequence[tuple[str, str]]) -> bytes:
        """The prompt of a conversation. An answer that comes back as a message hashes as it was generated."""
        parts: list[bytes] = []
        for role, content in messages:
            parts += (self.encode(f"<|{role}|>"), self.encode(content))
        parts.append(self.encode("<|assistant|>"))
        return b"".join(parts)


def block_hashes(data: bytes, block_bytes: int, root: int, parent: int | None = None) -> list[int]:
    """Chained 64-bit hashes of the full blocks of `data`; `root` seeds the first, or `parent` if it continues a chain."""
    digest = xxhash.xxh3_64_intdigest
    view = memoryview(data)
    current = root if parent is None else parent
    hashes: list[int] = []
    for start in range(0, len(data) - block_bytes + 1, block_bytes):
        current = digest(view[start : start + block_bytes], seed=current)
        hashes.append(current)
    return hashes


def chain_root(seed: int, lora: str | None, cache_salt: str | None) -> int:
    """Root of the hash chain: adapters and salts never share blocks."""
    return xxhash.xxh3_64_intdigest(repr((lora, cache_salt)).encode(), seed=seed)


class Words:
    """The generated text: each token is a function of the seed, the prompt's beginning and the token's position.

    So the prompt and the tokens generated so far, sent as a new prompt, continue exactly as the first answer would
    have, as greedy decoding does. `fork` is any integer that such a continuation shares with its original.
    """

    def __init__(self, width: int, seed: int, mean_output_tokens: int) -> None:
        self._width = width
        self._seed = seed
        self._mean = mean_output_tokens
        padded = _PHRASE + b" " * (-len(_PHRASE) % width)
        self._pieces = [padded[i : i + width] for i in range(0, len(padded), width)]

    def output_tokens(self, fork: int, prompt_tokens: int, min_tokens: int, max_tokens: int) -> tuple[int, bool]:
        """(tokens until the answer ends, whether it ended by itself); the last token is then the end token."""
        if self._mean:
            for index in range(max(min_tokens, 1), max_tokens + 1):
                if self._draw(fork, prompt_tokens + index, b"end") % self._mean == 0:
                    return index, True
        return max_tokens, False

    def tokens(self, fork: int, start: int, stop: int) -> Iterator[bytes]:
        """Bytes of the tokens at positions start..stop-1 (the prompt's first token is at 0)."""
        pieces = self._pieces
        cycle = len(pieces) + 1
        for position in range(start, stop):
            index = position % cycle
            yield pieces[index] if index < len(pieces) else self._code(fork, position)

    def _code(self, fork: int, position: int) -> bytes:
        code = f"{self._draw(fork, position, b'word'):016x}"[: self._width - 1]
        return code.encode() + b" "

    def _draw(self, fork: int, position: int, purpose: bytes) -> int:
        return xxhash.xxh3_64_intdigest(purpose + position.to_bytes(8, "little"), seed=fork ^ self._seed)

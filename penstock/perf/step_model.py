"""Time of one engine step as a function of the work in it.

One step of a continuous-batching engine feeds n tokens (chunks of prompts and one token for each decoding
sequence) through the model:

    T = c + sqrt(w0^2 + (b*n)^2) + s*d + kappa*K + q * sum(chunk * (ctx + chunk/2))      [ms]

c is the cost of scheduling and launching, w0 the time to read the weights, b the compute of a token, s what each of
the d decoding sequences costs besides (sampling, its output), kappa the time to read one token's KV during decoding
(K tokens in all), and q the attention of a prompt chunk of `chunk` tokens that follows `ctx` tokens already in the
cache. The root is a smooth maximum of the memory-bound and the
compute-bound regime (Vidur, arXiv:2405.05465, measures the same two).
"""

import math
from collections.abc import Iterable

import pydantic


class StepModel(pydantic.BaseModel):
    """Coefficients of the step time. All are milliseconds per the unit in the description."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    c: float = pydantic.Field(ge=0, description="fixed cost of a step, ms")
    w0: float = pydantic.Field(ge=0, description="time to read the weights once, ms")
    b: float = pydantic.Field(ge=0, description="compute per token, ms")
    s: float = pydantic.Field(default=0.0, ge=0, description="cost of a decoding sequence besides its token, ms")
    kappa: float = pydantic.Field(ge=0, description="reading one token's KV while decoding, ms")
    q: float = pydantic.Field(ge=0, description="prompt attention per pair of tokens, ms")

    def total_ms(self, tokens: int, decode_seqs: int, decode_kv_tokens: int, attention_pairs: float) -> float:
        """Step time in ms from its four totals; the form for callers that keep the totals themselves.

        `tokens` counts those of prompts and one for each of `decode_seqs`. `attention_pairs` is
        sum(chunk * (ctx + chunk/2)) over the step's prompt chunks.
        """
        if tokens <= 0:
            return 0.0
        linear_ms = math.sqrt(self.w0 * self.w0 + (self.b * tokens) ** 2)
        return self.c + linear_ms + self.s * decode_seqs + self.kappa * decode_kv_tokens + self.q * attention_pairs

    def step_ms(
        self, prefill: Iterable[tuple[int, int]] = (), decode_seqs: int = 0, decode_kv_tokens: int = 0
    ) -> float:
        """Step time in ms; `prefill` gives (chunk tokens, tokens already in the cache) for each prompt chunk."""
        tokens = decode_seqs
        pairs = 0.0
        for chunk, context in prefill:
            tokens += chunk
            pairs += attention_pairs(chunk, context)
        return self.total_ms(tokens, decode_seqs, decode_kv_tokens, pairs)

    def prefill_ms(self, uncached_tokens: int, cached_tokens: int = 0, chunk_tokens: int = 8192) -> float:
        """Time in ms to prefill a prompt alone on the engine, in chunks of at most `chunk_tokens`.

        Raises ValueError if `chunk_tokens` is not positive.
        """
        if chunk_tokens <= 0:
            raise ValueError(f"chunk_tokens is {chunk_tokens}; it must be at least 1")
        if uncached_tokens <= 0:
            return 0.0
        full, rest = divmod(uncached_tokens, chunk_tokens)
        linear_ms = full * self.total_ms(chunk_tokens, 0, 0, 0.0) + self.total_ms(rest, 0, 0, 0.0)
        return linear_ms + self.q * attention_pairs(uncached_tokens, cached_tokens)

    def decode_step_ms(self, seqs: int, kv_tokens: int) -> float:
        """Time in ms of a step that only decodes: `seqs` sequences with `kv_tokens` KV tokens together."""
        return self.total_ms(seqs, seqs, kv_tokens, 0.0)


def attention_pairs(chunk_tokens: int, context_tokens: int) -> float:
    """Pairs of tokens that attend to each other when `chunk_tokens` follow `context_tokens` cached ones."""
    return chunk_tokens * (context_tokens + chunk_tokens / 2)

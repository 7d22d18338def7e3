"""What a routing policy sees and what it answers. Plain data; times in ms on the caller's monotonic clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import final

from penstock.api.types import EngineSpeed

# What was placed counts as recent with a weight that falls by 1/e in this time: a sum over about the last three minutes.
RECENT_S = 180.0
# The same for the time that a worker's prefills take: long enough to hold several, short enough to follow a burst.
BUSY_S = 30.0
# An endpoint is never taken for busier than this with prefills: beyond it the queue says more.
MAX_BUSY = 0.9
# What an ended request says about the time per token at its endpoint counts this much; no engine is quicker than the least.
_TOKEN_WEIGHT = 0.05
_LEAST_TOKEN_MS = 0.1
# A stream counts as at most so many times slower than those before.
_MOST_TIMES = 4.0


class Endpoint:
    """One endpoint as the router sees it now. The data plane changes it; policies only read it."""

    __slots__ = (
        "arrived",
        "base_ms",
        "bit",
        "bucket",
        "busy_ms",
        "capacity_tokens",
        "decode_since_ms",
        "decoding",
        "evicts",
        "free_tokens",
        "fresh_tokens",
        "held_tokens",
        "id",
        "identity",
        "kv_ms_per_token",
        "kv_tokens",
        "ms_per_kv_token",
        "ms_per_seq",
        "ms_per_token",
        "ms_per_token2",
        "peer_busy_ms",
        "peer_fresh_tokens",
        "peer_generated_tokens",
        "peer_kv_tokens",
        "peer_queued_ms",
        "peer_queued_tokens",
        "peer_running",
        "peer_waiting",
        "placed_tokens",
        "prefill_since_ms",
        "queued_ms",
        "queued_tokens",
        "recent_prompt_tokens",
        "recent_requests",
        "recent_uncached_tokens",
        "rings",
        "running",
        "slot",
        "step_base_ms",
        "token_ms",
        "waiting",
    )

    def __init__(self, endpoint_id: str, slot: int, speed: EngineSpeed) -> None:
        self.id = endpoint_id
        # A number that every gateway computes alike, for consistent hashing.
        self.identity = _fnv1a(endpoint_id.encode())
        self.slot = slot
        self.bit = 1 << slot
        self.set_speed(speed)
        # In flight from this gateway: uncached prompt tokens still to prefill, requests that wait for their prefill, all
        # requests, KV tokens that they hold.
        self.queued_tokens = 0
        # The predicted time of those prefills, ms, and when the one under way began.
        self.queued_ms = 0.0
        self.prefill_since_ms = 0.0
        self.waiting = 0
        self.running = 0
        self.kv_tokens = 0
        # What of the KV cache they hold: at most `kv_tokens`; less where shared prefixes are known and counted once.
        self.held_tokens = 0
        # What they did not find cached.
        self.fresh_tokens = 0
        # Those that generate, the sum of the times since when, and the time that each of them takes for a token, ms.
        self.decoding = 0
        self.decode_since_ms = 0.0
        self.token_ms = max(speed.step_base_ms or speed.base_ms, _LEAST_TOKEN_MS)
        # The same from the other gateways, as they last said.
        self.peer_queued_tokens = 0
        self.peer_queued_ms = 0.0
        self.peer_waiting = 0
        self.peer_running = 0
        self.peer_kv_tokens = 0
        self.peer_fresh_tokens = 0
        self.peer_generated_tokens = 0
        # KV tokens that the engine holds at most; infinite while unknown.
        self.capacity_tokens = float("inf")
        # Tokens that the engine's cache takes before it evicts, as the index believes; infinite while unknown.
        self.free_tokens = float("inf")
        # Whether it has evicted anything yet.
        self.evicts = False
        # Prefills placed here, ms, with a weight that falls by 1/e in `BUSY_S`; those of the other gateways.
        self.busy_ms = 0.0
        self.peer_busy_ms = 0.0
        # How many those were, those of the other gateways included.
        self.arrived = 0.0
        # What this gateway placed here: uncached tokens in all, and requests and tokens with the weight of `RECENT_S`.
        self.placed_tokens = 0
        self.recent_requests = 0.0
        self.recent_prompt_tokens = 0.0
        self.recent_uncached_tokens = 0.0
        # Places on hash rings by their number, a function of `identity` that is kept once it is known.
        self.rings: dict[int, list[int]] = {}
        # Place in the pool's load buckets.
        self.bucket = 0

    def placed(self, prompt_tokens: int, uncached_tokens: int, prefill_ms: float) -> None:
        """Counts a prompt that is sent here."""
        self.busy_ms += prefill_ms
        self.arrived += 1.0
        self.placed_tokens += uncached_tokens
        self.recent_requests += 1.0
        self.recent_prompt_tokens += prompt_tokens
        self.recent_uncached_tokens += uncached_tokens

    def set_speed(self, speed: EngineSpeed) -> None:
        """What its prefills and steps are predicted with from now on; what is in flight keeps its prediction."""
        self.base_ms = speed.base_ms
        self.ms_per_token = speed.ms_per_token
        self.ms_per_token2 = speed.ms_per_token2
        self.ms_per_seq = speed.ms_per_seq
        self.ms_per_kv_token = speed.ms_per_kv_token
        self.step_base_ms = speed.step_base_ms
        # 0 where it is not known: then transfers decide nothing.
        self.kv_ms_per_token = speed.kv_ms_per_token or 0.0

    def fade(self, factor: float, busy_factor: float) -> None:
        """Takes what was placed as older: exp(-t / RECENT_S) and exp(-t / BUSY_S) for a time t."""
        self.busy_ms *= busy_factor
        self.arrived *= busy_factor
        self.peer_busy_ms *= busy_factor
        self.recent_requests *= factor
        self.recent_prompt_tokens *= factor
        self.recent_uncached_tokens *= factor

    def prefill_ms(self, uncached_tokens: float, cached_tokens: float) -> float:
        """Time to prefill that many tokens after that many cached ones, ms, without what every prefill costs."""
        return uncached_tokens * (self.ms_per_token + self.ms_per_token2 * (cached_tokens + 0.5 * uncached_tokens))

    def own_wait_ms(self, now_ms: float) -> float:
        """Time until this gateway's prompts here are prefilled, ms: what is queued less the time since that began."""
        if self.queued_ms <= 0.0:
            return 0.0
        passed = now_ms - self.prefill_since_ms
        if passed <= 0.0:
            return self.queued_ms
        left = self.queued_ms - passed
        return left if left > 0.0 else 0.0

    def wait_ms(self, now_ms: float) -> float:
        """Time until all prompts that are queued here are prefilled, ms."""
        return self.own_wait_ms(now_ms) + self.peer_queued_ms

    def generated_tokens(self, now_ms: float) -> float:
        """Tokens that this gateway's requests here have generated, by the time since each began to.

        Half of a mean answer each would be far too little where a few answers are very long: those are who is there.
        """
        if not self.decoding:
            return 0.0
        return max(0.0, self.decoding * now_ms - self.decode_since_ms) / self.token_ms

    def begin_decode(self, since_ms: float) -> None:
        """A request here generates from now on."""
        self.decoding += 1
        self.decode_since_ms += since_ms

    def end_decode(self, since_ms: float) -> None:
        """One that did so since then has ended."""
        self.decoding -= 1
        # A sum of floats that come and go leaves a rest.
        self.decode_since_ms = self.decode_since_ms - since_ms if self.decoding else 0.0

    def learn_token_ms(self, token_ms: float) -> None:
        """Takes the mean time per token of a stream that has ended here.

        One that came all at once says nothing; of one that stood still (its client read no further) little is taken.
        """
        if token_ms >= _LEAST_TOKEN_MS:
            self.token_ms += _TOKEN_WEIGHT * (min(token_ms, _MOST_TIMES * self.token_ms) - self.token_ms)

    def requests(self) -> int:
        """Requests in flight here, from all gateways."""
        return self.running + self.peer_running


def _fnv1a(data: bytes) -> int:
    """FNV-1a, 64 bits."""
    number = 0xCBF29CE484222325
    for byte in data:
        number = ((number ^ byte) * 0x100000001B3) & ((1 << 64) - 1)
    return number


@final
class Request:
    """Features of a request. `prompt_tokens` is an estimate from its bytes; `session` is a hash, or None."""

    __slots__ = ("hashes", "max_tokens", "prompt_tokens", "session")

    def __init__(self, prompt_tokens: int, hashes: list[int], session: int | None, max_tokens: int | None) -> None:
        self.prompt_tokens = prompt_tokens
        self.hashes = hashes
        self.session = session
        self.max_tokens = max_tokens


@dataclasses.dataclass(slots=True)
class Observed:
    """What a policy decides on: the endpoints that may take the request, and what they have of its prompt.

    `levels` is what `router.index.prefix.PrefixIndex.match` gives, shortest match first; `tokens_at` turns a number of
    blocks into tokens. `shortlist` gives up to n endpoints of a bit set, least loaded first by coarse classes.
    """

    endpoints: Sequence[Endpoint]
    bits: int
    by_slot: Sequence[Endpoint | None]
    levels: list[tuple[int, int]]
    tokens_at: Callable[[int], int]
    shortlist: Callable[[int, int], list[Endpoint]]
    # The caller's clock, ms.
    now_ms: float = 0.0
    # Tokens that an answer of this model has, on average.
    output_tokens: float = 256.0
    # Share of an endpoint's KV cache that requests in flight may fill.
    kv_share: float = 1.0
    # Requests that one more ms of a queue keeps waiting: those that come to an endpoint in that time (`followers_per_ms`).
    followers_per_ms: float = 0.0


@final
class Decision:
    """Where a request goes, and why.

    `candidates` are the endpoints that were scored and `scores` has one row per component in `components`, each with one
    number per candidate; lower is better. `state` replaces the state that the policy was given.
    """

    __slots__ = ("candidates", "components", "endpoint", "matched_tokens", "reason", "scores", "state")

    def __init__(
        self,
        endpoint: Endpoint,
        matched_tokens: int,
        candidates: Sequence[Endpoint],
        components: tuple[str, ...],
        scores: Sequence[Sequence[float]],
        reason: str,
        state: int,
    ) -> None:
        self.endpoint = endpoint
        self.matched_tokens = matched_tokens
        self.candidates = candidates
        self.components = components
        self.scores = scores
        self.reason = reason
        self.state = state


def followers_per_ms(endpoints: Sequence[Endpoint]) -> float:
    """Requests that come to one of these in each ms of a queue, and in the ms by which they make it longer themselves.

    They come as they did lately, to all alike. With a share b of the time taken by prefills, each ms of a queue makes it
    1 / (1 - b) ms in the end.
    """
    if not endpoints:
        return 0.0
    arrived = busy_ms = 0.0
    for endpoint in endpoints:
        arrived += endpoint.arrived
        busy_ms += endpoint.busy_ms + endpoint.peer_busy_ms
    whole_ms = BUSY_S * 1_000.0 * len(endpoints)
    return arrived / whole_ms / (1.0 - min(MAX_BUSY, busy_ms / whole_ms))


Policy = Callable[[Request, Observed, int], Decision]


@final
class Pair:
    """Where a prompt is computed and where its answer is generated, and how long the KV is on its way between them, ms."""

    __slots__ = ("decode", "prefill", "transfer_ms")

    def __init__(self, prefill: Decision, decode: Decision, transfer_ms: float) -> None:
        self.prefill = prefill
        self.decode = decode
        self.transfer_ms = transfer_ms


# (request, endpoints, time of a token's KV over the link that it comes from in ms, state)
DecodePolicy = Callable[[Request, Observed, float, int], Decision]

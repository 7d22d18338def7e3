"""What a routing policy sees and what it answers. Plain data; times in ms on the caller's monotonic clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from penstock.api.types import EngineSpeed


class Endpoint:
    """One endpoint as the router sees it now. The data plane changes it; policies only read it."""

    __slots__ = (
        "base_ms",
        "bit",
        "bucket",
        "evict_weight",
        "free_tokens",
        "id",
        "identity",
        "kv_tokens",
        "ms_per_kv_token",
        "ms_per_seq",
        "ms_per_token",
        "ms_per_token2",
        "peer_kv_tokens",
        "peer_queued_tokens",
        "peer_running",
        "queued_tokens",
        "running",
        "slot",
    )

    def __init__(self, endpoint_id: str, slot: int, speed: EngineSpeed) -> None:
        self.id = endpoint_id
        # A number that every gateway computes alike, for consistent hashing.
        self.identity = _fnv1a(endpoint_id.encode())
        self.slot = slot
        self.bit = 1 << slot
        self.base_ms = speed.base_ms
        self.ms_per_token = speed.ms_per_token
        self.ms_per_token2 = speed.ms_per_token2
        self.ms_per_seq = speed.ms_per_seq
        self.ms_per_kv_token = speed.ms_per_kv_token
        # In flight from this gateway: uncached prompt tokens still to prefill, requests, KV tokens that they hold.
        self.queued_tokens = 0
        self.running = 0
        self.kv_tokens = 0
        # The same from the other gateways, as they last said.
        self.peer_queued_tokens = 0
        self.peer_running = 0
        self.peer_kv_tokens = 0
        # Tokens that the engine's cache takes before it evicts, as the index believes; infinite while unknown.
        self.free_tokens = float("inf")
        # What an evicted token is worth, from 0 (nobody will ask again) to 1 (somebody just did).
        self.evict_weight = 1.0
        # Place in the pool's load buckets.
        self.bucket = 0

    def wait_ms(self) -> float:
        """Time until the prompts that are queued here are prefilled, ms."""
        return (self.queued_tokens + self.peer_queued_tokens) * self.ms_per_token

    def requests(self) -> int:
        """Requests in flight here, from all gateways."""
        return self.running + self.peer_running


def _fnv1a(data: bytes) -> int:
    """FNV-1a, 64 bits."""
    number = 0xCBF29CE484222325
    for byte in data:
        number = ((number ^ byte) * 0x100000001B3) & ((1 << 64) - 1)
    return number


class Request(NamedTuple):
    """Features of a request. `prompt_tokens` is an estimate from its bytes; `session` is a hash, or None."""

    prompt_tokens: int
    hashes: list[int]
    session: int | None
    max_tokens: int | None


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


class Decision(NamedTuple):
    """Where a request goes, and why.

    `candidates` are the endpoints that were scored and `scores` has one row per component in `components`, each with one
    number per candidate; lower is better. `state` replaces the state that the policy was given.
    """

    endpoint: Endpoint
    matched_tokens: int
    candidates: Sequence[Endpoint]
    components: tuple[str, ...]
    scores: Sequence[Sequence[float]]
    reason: str
    state: int


Policy = Callable[[Request, Observed, int], Decision]

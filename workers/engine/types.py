"""What goes into the engine model and what comes out of a step."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from workers.engine.block_pool import Block, Hash

ExtendHashes = Callable[[int, int], Sequence[Hash]]
"""(first block, count) -> chained hashes of blocks that hold generated tokens."""


class State(enum.Enum):
    """Where a request is."""

    WAITING = "waiting"
    PREFILL = "prefill"
    RECEIVING = "receiving"
    DECODE = "decode"
    HELD = "held"
    FINISHED = "finished"
    ABORTED = "aborted"


class RejectedRequest(ValueError):
    """The request can never run on this engine; the message says why."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Capacity and batching limits of one engine."""

    kv_blocks: int
    block_size: int
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    prefix_caching: bool = True
    kv_events: bool = False
    """Whether steps report blocks stored and removed."""

    def __post_init__(self) -> None:
        for name in ("kv_blocks", "block_size", "max_num_batched_tokens", "max_num_seqs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_num_seqs > self.max_num_batched_tokens:
            raise ValueError(
                f"max_num_seqs is {self.max_num_seqs}; it must be at most max_num_batched_tokens"
                f" ({self.max_num_batched_tokens}), since each decoding sequence takes one token of a step"
            )


@dataclass(slots=True)
class Counters:
    """Totals since the engine began; they only grow."""

    steps: int = 0
    prompt_tokens: int = 0
    """Prompt tokens of requests that got their first token, cached or computed."""
    generation_tokens: int = 0
    prefix_queries_tokens: int = 0
    """Prompt tokens looked up in the prefix cache, at first admission."""
    prefix_hits_tokens: int = 0
    preemptions: int = 0
    evicted_blocks: int = 0
    """Cached blocks whose place was taken."""


class Request:
    """One request to the engine, and its progress there.

    `hashes` are the chained hashes of the prompt's full blocks in order (they may go on into the output where the
    caller knows it); LoRA adapter and cache salt belong in the chain's root. `extend` gives the hashes of blocks
    that generated tokens complete; without it, such blocks cannot be reused by others.
    `output_tokens` is how many tokens the request will generate.

    Where one engine computes the prompt and another generates the answer, the first has a request of one token with `hold`:
    its KV stays until `Engine.release`. The second has one with `remote`: the prompt's KV comes from elsewhere, as far as it is
    not cached there, and with it the first token; or, with `known=0`, the KV of all but the prompt's last token, and the first
    token is generated there.
    """

    __slots__ = (
        "admitted_s",
        "arrival_s",
        "base",
        "blocks",
        "cached_blocks",
        "cached_tokens",
        "computed",
        "cross_at",
        "extend",
        "finish_at",
        "generated",
        "hashes",
        "hold",
        "id",
        "lora",
        "order",
        "output_tokens",
        "payload",
        "preemptions",
        "priority",
        "prompt_tokens",
        "remote",
        "source",
        "state",
        "target",
    )

    def __init__(
        self,
        id: str,
        prompt_tokens: int,
        output_tokens: int,
        hashes: Sequence[Hash] = (),
        *,
        priority: int = 0,
        extend: ExtendHashes | None = None,
        lora: str | None = None,
        payload: object = None,
        source: object = None,
        hold: bool = False,
        remote: bool = False,
        known: int = 1,
    ) -> None:
        if prompt_tokens < 1 or output_tokens < 1:
            raise RejectedRequest(
                f"request {id}: {prompt_tokens} prompt and {output_tokens} output tokens; both must be at least 1"
            )
        if remote and output_tokens <= known:
            raise RejectedRequest(f"request {id}: its only token was generated where its prompt was")
        self.id = id
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.hashes = hashes
        self.priority = priority
        self.extend = extend
        self.lora = lora
        self.payload = payload
        """Who waits for its tokens: anything of the caller's, which the engine does not look at."""
        self.source = source
        """Where it came from: likewise."""
        self.hold = hold
        self.remote = remote
        """Whether its KV is still to come from elsewhere."""
        self.state = State.WAITING
        self.arrival_s = 0.0
        self.admitted_s: float | None = None
        """When the first step that worked on it began."""
        self.cached_tokens = 0
        """Prompt tokens found in the cache at first admission."""
        self.generated = known if remote else 0
        """Tokens generated; while decoding, use `Engine.generated_tokens`."""
        self.preemptions = 0
        self.order = 0
        self.computed = 0
        self.target = prompt_tokens
        self.base = 0
        self.cross_at = 0
        self.finish_at = 0
        self.blocks: list[Block] = []
        self.cached_blocks = 0

    @property
    def missing_tokens(self) -> int:
        """Tokens of its prompt, and of what it has generated so far, whose KV is not here."""
        return self.target - self.computed

    def __repr__(self) -> str:
        return f"Request({self.id!r}, {self.state.value}, prompt={self.prompt_tokens}, output={self.output_tokens})"


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """Blocks first_block.. of `request` became findable under `hashes`; `parent` precedes the first of them."""

    request: Request
    first_block: int
    hashes: Sequence[Hash]
    parent: Hash | None


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """The blocks with these hashes were evicted."""

    hashes: Sequence[Hash]


@dataclass(frozen=True, slots=True)
class BlocksCleared:
    """Every cached block was forgotten."""


KvEvent = BlocksStored | BlocksRemoved | BlocksCleared


@dataclass(slots=True)
class StepResult:
    """What one step does. Everything in it is true once `duration_s` has passed."""

    duration_s: float = 0.0
    prefill_tokens: int = 0
    decode_kv_tokens: int = 0
    admitted: list[Request] = field(default_factory=list)
    """Requests on which the engine began to work in this step."""
    first: list[Request] = field(default_factory=list)
    """Requests whose prefill ended: each has one new token (its first, unless it resumed after preemption)."""
    decoded: list[Request] = field(default_factory=list)
    """Requests that decoded one new token."""
    finished: list[Request] = field(default_factory=list)
    """Those of `first` and `decoded` whose new token was their last."""
    receiving: list[Request] = field(default_factory=list)
    """Requests whose blocks were taken at the step's beginning: their KV may be sent from then on."""
    joined: list[Request] = field(default_factory=list)
    """Those of `decoded` whose KV came from elsewhere, and that decode for the first time."""
    preempted: list[Request] = field(default_factory=list)
    kv_events: list[KvEvent] = field(default_factory=list)

    @property
    def generated_tokens(self) -> int:
        """New tokens of this step."""
        return len(self.first) + len(self.decoded)


@dataclass(slots=True)
class Stretch:
    """What a run of steps that only decode does. Everything in it is true once `duration_s` has passed."""

    steps: int
    decoding: int
    """Sequences that got one token in each of the steps."""
    first_s: float
    """Duration of the first step; each further one is longer by the same amount."""
    last_s: float
    duration_s: float = 0.0
    finished: list[Request] = field(default_factory=list)
    """Requests that got their last token in the last step."""
    kv_events: list[KvEvent] = field(default_factory=list)

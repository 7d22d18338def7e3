"""The nouns of Penstock: worker, endpoint, pool, role, SLO class, model deployment.

Everything here is data. Models that a user writes (`ModelDeployment`, `SloClass`) forbid unknown fields; models that one
process reads back from another (`WorkerRecord`, `GatewayRecord`) ignore them, so that a newer peer can add some.
"""

from __future__ import annotations

import enum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

ROLE_UNIFIED = "unified"
ROLE_PREFILL = "prefill"
ROLE_DECODE = "decode"
BUILTIN_ROLES = (ROLE_UNIFIED, ROLE_PREFILL, ROLE_DECODE)

# A role is a name in an open set; these limits keep it usable as a label and in a Redis key.
Role = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$")]
NodeName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
ModelName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\s\x00-\x1f]+$")]


class _Written(BaseModel):
    """Written by a user: an unknown field is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _ReadBack(BaseModel):
    """Read back from a peer: an unknown field comes from a newer version."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class WorkerState(enum.StrEnum):
    """Life of a worker: only `ready` takes new requests; `draining` finishes what it has and then stops."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class EngineSpeed(_ReadBack):
    """What a router needs of an engine's step-time model to predict a prefill.

    prefill_ms(n uncached tokens, c cached tokens) = base + per_token * n + per_token2 * n * (c + n / 2)
    """

    base_ms: float = Field(0.0, ge=0, description="Fixed cost of a prefill, ms")
    ms_per_token: float = Field(gt=0, description="Cost of one uncached prompt token, ms")
    ms_per_token2: float = Field(0.0, ge=0, description="Attention cost, ms per token squared")
    ms_per_seq: float = Field(0.0, ge=0, description="What one more decoding sequence adds to a step, ms")
    ms_per_kv_token: float = Field(0.0, ge=0, description="What one more KV token of a decoding sequence adds, ms")
    step_base_ms: float = Field(0.0, ge=0, description="Time of a decode step with one short sequence, ms")
    kv_ms_per_token: float | None = Field(
        None, ge=0, description="Time that a token's KV takes over the worker's link to another, ms; unset: not known"
    )


class Capacity(_ReadBack):
    """What an engine can hold. None means unknown, which is neither zero nor unlimited."""

    kv_blocks: int | None = Field(None, ge=1)
    block_size_tokens: int | None = Field(None, ge=1)
    max_num_seqs: int | None = Field(None, ge=1)
    max_num_batched_tokens: int | None = Field(None, ge=1)
    max_model_len_tokens: int | None = Field(None, ge=1)

    @property
    def kv_tokens(self) -> int | None:
        """Tokens of KV cache that the engine holds, or None where unknown."""
        if self.kv_blocks is None or self.block_size_tokens is None:
            return None
        return self.kv_blocks * self.block_size_tokens


class Endpoint(_ReadBack):
    """Where a worker listens."""

    host: str = Field(min_length=1, max_length=253)
    port: int = Field(ge=1, le=65535)
    dp_rank: int = Field(0, ge=0)

    @property
    def address(self) -> str:
        """`host:port`, with `/rank` where the worker has several data-parallel ranks."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" + (f"/{self.dp_rank}" if self.dp_rank else "")


class WorkerRecord(_ReadBack):
    """What a worker registers under its lease."""

    id: Name
    incarnation: int = Field(ge=1, description="Fencing number of this registration; a higher one replaces it")
    deployment: Name
    model: ModelName = Field(description="The name that clients ask for")
    role: Role = ROLE_UNIFIED
    endpoint: Endpoint
    state: WorkerState
    engine: str = Field(description="Name of the engine adapter: vllm, sglang, sim")
    engine_version: str = ""
    simulated: bool = False
    revision: str = ""
    capacity: Capacity = Capacity()
    speed: EngineSpeed | None = None
    kv_events: str | None = Field(None, description="ZMQ address of the engine's KV events")
    kv_replay: str | None = Field(None, description="ZMQ address of the replay socket")
    adapters: tuple[str, ...] = Field((), description="LoRA adapters that are loaded")
    pid: int | None = None
    node: str = ""
    started_at_s: float = Field(0.0, description="Unix time of the start")
    control_port: int | None = Field(None, description="Port of the agent's gRPC API, on the endpoint's host")


class RegisteredWorker(_ReadBack):
    """A record with what its lease says. `lease_left_s` is None while Redis cannot be asked."""

    record: WorkerRecord
    lease_left_s: float | None = None


class GatewayRecord(_ReadBack):
    """What a gateway registers under its lease, with a summary for `penstock status`."""

    id: Name
    host: str
    port: int
    admin_host: str = "127.0.0.1"
    admin_port: int
    pid: int
    version: str = ""
    policy: str = ""
    started_at_s: float = 0.0
    requests_total: int = 0
    inflight: int = 0
    index_blocks: int = 0
    index_bytes: int = 0
    endpoints: int = 0
    degraded: tuple[str, ...] = ()


class RegisteredGateway(_ReadBack):
    """A gateway's record with what its lease says, as for a worker."""

    record: GatewayRecord
    lease_left_s: float | None = None


class NodeRecord(_ReadBack):
    """What a node's agent registers under its lease: what the node draws, as far as it is measured."""

    id: NodeName
    version: str = ""
    started_at_s: float = 0.0
    gpus: int | None = Field(None, ge=0, description="None: it is not known whether there are any")
    gpu_w: float | None = Field(None, description="All GPUs, W; None where one of them is not known")
    cpu_w: float | None = Field(None, description="CPU packages and their memory, W; None where not known")
    degraded: tuple[str, ...] = ()


class RegisteredNode(_ReadBack):
    """A node's record with what its lease says. `silent_s`: since the lease ended; 0 while it lasts."""

    record: NodeRecord
    lease_left_s: float
    silent_s: float


class SloClass(_Written):
    """Latency targets of a class of requests, each met by `quantile` of them."""

    name: Name = "default"
    ttft_ms: float | None = Field(None, gt=0)
    itl_ms: float | None = Field(None, gt=0)
    e2e_ms: float | None = Field(None, gt=0)
    quantile: float = Field(0.95, gt=0, lt=1)
    priority: int = Field(0, ge=-1000, le=1000, description="Lower is served first, as in vLLM")


class Pool(_Written):
    """The workers of one model in one role."""

    role: Role = ROLE_UNIFIED
    replicas: int = Field(1, ge=0, le=10_000)
    min_replicas: int = Field(0, ge=0, le=10_000)
    max_replicas: int = Field(10_000, ge=0, le=10_000)

    @model_validator(mode="after")
    def _ordered(self) -> Pool:
        if not self.min_replicas <= self.replicas <= self.max_replicas:
            raise ValueError(
                f"replicas must lie between min_replicas ({self.min_replicas}) and max_replicas "
                f"({self.max_replicas}), not {self.replicas}"
            )
        return self


class EngineSpec(_Written):
    """Which engine a deployment's workers run, and with what settings (names are the engine's own)."""

    kind: str = Field("sim", description="sim, vllm")
    profile: str = Field("cpu-tiny", description="Performance profile of a simulated engine")
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)


class ModelDeployment(_Written):
    """What a user asks for: a model served by an engine in one or more pools."""

    name: Name
    model: ModelName
    engine: EngineSpec = EngineSpec()
    pools: tuple[Pool, ...] = (Pool(),)
    policy: str = Field("default", description="Routing profile of the deployment")
    slo_classes: tuple[SloClass, ...] = ()
    generation: int = Field(1, ge=1, description="Rises with every change")

    @model_validator(mode="after")
    def _roles_unique(self) -> ModelDeployment:
        roles = [pool.role for pool in self.pools]
        if len(set(roles)) != len(roles):
            raise ValueError(f"pools: each role may appear once, not {roles}")
        return self

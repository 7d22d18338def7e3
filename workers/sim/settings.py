"""Settings of a simulated worker."""

import pydantic

from penstock import perf


class SimSettings(pydantic.BaseModel):
    """What one simulated worker serves, and how fast. Unset capacities come from the profile."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    model: str = pydantic.Field(default="sim", min_length=1, description="model name served")
    host: str = pydantic.Field(default="127.0.0.1", description="address to bind")
    port: int = pydantic.Field(default=0, ge=0, le=65535, description="TCP port; 0 takes a free one")
    profile: str = pydantic.Field(default="cpu-tiny", description="engine profile of penstock.perf")
    kv_blocks: int | None = pydantic.Field(default=None, ge=1, description="KV cache, blocks; default: the profile's")
    block_size: int | None = pydantic.Field(default=None, ge=1, description="tokens per block; default: the profile's")
    max_num_batched_tokens: int | None = pydantic.Field(default=None, ge=1, description="tokens per step at most")
    max_num_seqs: int | None = pydantic.Field(default=None, ge=1, description="sequences running at most")
    max_model_len: int = pydantic.Field(default=131072, ge=2, description="prompt and output tokens at most")
    bytes_per_token: int = pydantic.Field(default=4, ge=1, le=6, description="UTF-8 bytes that count as one token")
    mean_output_tokens: int = pydantic.Field(
        default=128,
        ge=0,
        description="mean answer length where ignore_eos is not set; 0: answers never end by themselves",
    )
    speed: float = pydantic.Field(default=1.0, gt=0, description="time scale; 1 is the profile's own speed")
    seed: int = pydantic.Field(default=0, ge=0, description="seed of the generated words and lengths")
    prefix_caching: bool = pydantic.Field(default=True, description="reuse KV blocks of equal prefixes")
    kv_events_port: int | None = pydantic.Field(
        default=None,
        ge=0,
        le=65535,
        description="ZMQ PUB port of KV events; 0 takes a free one; unset: no events",
    )
    kv_replay_port: int | None = pydantic.Field(
        default=None, ge=0, le=65535, description="ZMQ ROUTER port of KV event replay; needs kv_events_port"
    )
    kv_events_topic: str = pydantic.Field(default="", description="first frame of each KV event message")
    kv_buffer_steps: int = pydantic.Field(default=10_000, ge=1, description="KV event batches kept for replay")
    keep_alive_s: int = pydantic.Field(default=5, ge=1, description="idle HTTP connections are closed after this")
    slowdown: float = pydantic.Field(default=1.0, ge=1.0, description="factor on step times, as by a power cap")

    @pydantic.field_validator("profile")
    @classmethod
    def _known_profile(cls, name: str) -> str:
        perf.load_profile(name)
        return name

    @pydantic.model_validator(mode="after")
    def _replay_needs_events(self) -> "SimSettings":
        if self.kv_replay_port is not None and self.kv_events_port is None:
            raise ValueError("kv_replay_port is set, kv_events_port is not; replay needs events")
        return self

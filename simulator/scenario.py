"""What a simulation is told. Strict: an unknown or wrong key is an error that names it."""

from __future__ import annotations

import pathlib
from typing import Annotated

import pydantic
from pydantic import Field

from penstock import perf
from penstock.api import types as api
from penstock.workload import formats, options
from router.policy import profiles
from router.server import settings as router


class Strict(pydantic.BaseModel):
    """A part of a scenario."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Trace(Strict):
    """A recorded workload."""

    path: pathlib.Path = Field(description="File or folder; relative to the scenario's file")
    format: str = Field(description="Format: " + ", ".join(formats.READERS))
    limit: int | None = Field(None, ge=1, description="Only the first requests, this many")
    reading: options.ReadOptions = Field(options.ReadOptions(), description="Options of the reader (docs/replay.md)")

    @pydantic.field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in formats.READERS:
            raise ValueError(f"format {name!r} is not known; known are {', '.join(formats.READERS)}")
        return name


class Pool(Strict):
    """Equal workers of one model."""

    workers: int = Field(8, ge=1, le=10_000, description="Number of workers")
    profile: str | None = Field(None, description="Engine profile; unset: the model's")
    kv_blocks: int | None = Field(None, ge=1, description="KV cache of a worker, blocks; unset: what the profile holds")
    max_num_batched_tokens: int | None = Field(None, ge=1, description="Tokens per step; unset: the profile's")
    max_num_seqs: int | None = Field(None, ge=1, description="Sequences that run at once; unset: the profile's")
    slowdown: float = Field(1.0, ge=1.0, le=100, description="Factor on step times, as a power cap has it")

    @pydantic.field_validator("profile")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        return None if name is None else perf.load_profile(name).name


class Model(Strict):
    """A model and the workers that serve it."""

    name: api.ModelName = Field("sim", description="Name that requests ask for")
    profile: str = Field("h200-llama3.1-8b-fp8", description="Engine profile: model, accelerator and TP together")
    pools: Annotated[tuple[Pool, ...], Field(min_length=1)] = Field((Pool(),), description="Its workers")
    share: float = Field(1.0, gt=0, description="Share of the requests that ask for it, relative to the other models")
    policy: str | None = Field(None, description="Routing profile of this model; unset: the gateways'")

    @pydantic.field_validator("profile")
    @classmethod
    def _known(cls, name: str) -> str:
        return perf.load_profile(name).name


class Fleet(Strict):
    """Workers."""

    models: Annotated[tuple[Model, ...], Field(min_length=1)] = Field((Model(),), description="Models that are served")
    block_size: int | None = Field(
        None,
        ge=1,
        le=16_383,
        description="Tokens per KV block of every engine; unset: the workload's, else the profile's",
    )
    kv_events: bool = Field(True, description="Workers report what their KV events come to, twice a second")
    network_ms: float = Field(0.0, ge=0, description="One way between gateway and worker, ms")


class Gateways(Strict):
    """Gateways and how they tell each other what they know."""

    count: int = Field(1, ge=1, le=64, description="Number of gateways; each request meets any of them")
    policy: str = Field(profiles.DEFAULT, description="Routing profile (docs/routing.md)")
    exchange_interval_s: float = Field(
        router.ShareSettings().interval_s, gt=0, le=5, description="How often placements and loads are sent, s"
    )
    exchange_delay_s: float = Field(0.001, ge=0, description="How long a batch is on its way to the others, s")
    peer_timeout_s: float = Field(
        router.ShareSettings().peer_timeout_s, gt=0.2, description="Silence after which a peer's load is forgotten, s"
    )
    index_budget_bytes: int = Field(
        router.IndexSettings().budget_bytes, ge=1 << 16, description="Memory bound of a gateway's index, bytes"
    )

    @pydantic.field_validator("policy")
    @classmethod
    def _known(cls, name: str) -> str:
        return profiles.by_name(name).name


class SloClass(api.SloClass):
    """A class of requests with its targets."""

    share: float = Field(1.0, gt=0, description="Share of the requests in it, relative to the other classes")


class Scenario(Strict):
    """A whole simulation."""

    trace: Trace | None = Field(None, description="A recorded workload")
    fleet: Fleet = Field(Fleet(), description="Workers")
    gateways: Gateways = Field(Gateways(), description="Gateways")
    classes: Annotated[tuple[SloClass, ...], Field(min_length=1)] = Field(
        (SloClass(),), description="Classes of requests and their targets"
    )
    speed: float = Field(1.0, gt=0, description="How many times faster than recorded requests arrive")
    seed: int = Field(0, ge=0, description="Of everything that is drawn")

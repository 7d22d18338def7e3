"""What a simulation is told. Strict: an unknown or wrong key is an error that names it."""

from __future__ import annotations

import pathlib
from typing import Annotated, Any, Literal

import pydantic
import yaml
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
    reading: options.ReadOptions = Field(
        options.ReadOptions(), description="How the trace is read; its seed is the scenario's"
    )

    @pydantic.field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in formats.READERS:
            raise ValueError(f"format {name!r} is not known; known are {', '.join(formats.READERS)}")
        return name


class Pool(Strict):
    """Equal workers of one model in one role."""

    role: Literal["unified", "prefill", "decode"] = Field(
        "unified",
        description="`unified`: prompts and answers; `prefill`: prompts, whose KV goes to workers of role `decode`, which"
        " generate the answers. A model has pools of role `unified`, or pools of both others",
    )
    workers: int = Field(8, ge=1, le=10_000, description="Number of workers")
    profile: str | None = Field(None, description="Engine profile; unset: the model's")
    kv_blocks: int | None = Field(None, ge=1, description="KV cache of a worker, blocks; unset: what the profile holds")
    max_num_batched_tokens: int | None = Field(None, ge=1, description="Tokens per step; unset: the profile's")
    max_num_seqs: int | None = Field(None, ge=1, description="Sequences that run at once; unset: the profile's")
    slowdown: float = Field(1.0, ge=1.0, le=100, description="Factor on step times, as a power cap has it")
    kv_transfer_gbytes_s: float | None = Field(
        None, gt=0, le=1e6, description="Bandwidth of a worker's link for KV, 10^9 bytes per s; unset: the fleet's"
    )

    @pydantic.field_validator("profile")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            perf.load_profile(name)
        return name


class Model(Strict):
    """A model and the workers that serve it."""

    name: api.ModelName = Field("sim", description="Name that requests ask for")
    profile: str = Field("h200-llama3.1-8b-fp8", description="Engine profile: model, accelerator and TP together")
    pools: Annotated[tuple[Pool, ...], Field(min_length=1)] = Field((Pool(),), description="Its workers")
    share: float = Field(1.0, gt=0, description="Share of the requests that ask for it, relative to the other models")
    policy: str | None = Field(None, description="Routing profile of this model; unset: the gateways'")
    kv_bytes_per_token: int | None = Field(
        None, ge=1, description="KV of one token, for what is sent between workers, bytes; unset: the profile's"
    )

    @pydantic.field_validator("profile")
    @classmethod
    def _known(cls, name: str) -> str:
        perf.load_profile(name)
        return name

    @property
    def split(self) -> bool:
        """Whether prompts and answers are computed by workers of their own."""
        return any(pool.role != api.ROLE_UNIFIED for pool in self.pools)

    def kv_bytes(self, pool: Pool) -> int | None:
        """KV of one token at the workers of a pool, bytes; None where it is not known."""
        return self.kv_bytes_per_token or perf.load_profile(pool.profile or self.profile).kv_bytes_per_token

    @pydantic.model_validator(mode="after")
    def _paired(self) -> Model:
        found = {pool.role for pool in self.pools}
        if not self.split:
            for at, pool in enumerate(self.pools):
                if pool.kv_transfer_gbytes_s is not None:
                    raise ValueError(f"pools.{at}.kv_transfer_gbytes_s: only pools of role prefill and decode send KV")
            return self
        if found != {api.ROLE_PREFILL, api.ROLE_DECODE}:
            raise ValueError(
                f"pools: the roles are {', '.join(sorted(found))}; a model has pools of role unified, or both of role prefill"
                " and of role decode"
            )
        sizes = {self.kv_bytes(pool): pool.profile or self.profile for pool in self.pools}
        if None in sizes:
            raise ValueError(f"kv_bytes_per_token: profile {sizes[None]} does not tell it; give it here")
        if len(sizes) > 1:
            shown = ", ".join(f"{size} bytes per token ({name})" for size, name in sizes.items())
            raise ValueError(f"pools: their KV differs: {shown}; what one sends the other must be able to use")
        return self


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
    network_ms: float = Field(0.0, ge=0, description="Time of a request to a worker, and of its answer back, ms each")
    kv_transfer_gbytes_s: float = Field(
        50.0,
        gt=0,
        le=1e6,
        description="Bandwidth of each worker's link for KV, each way, 10^9 bytes per s; what a worker sends or receives at"
        " once shares it (50: a port of 400 Gbit/s)",
    )
    kv_transfer_ms: float = Field(1.0, ge=0, description="From a worker's wish for KV to its first byte, ms")
    first_token: Literal["prefill", "decode"] = Field(
        "prefill",
        description="Role of the worker that answers with the first token: `prefill`, at once; `decode`, which computes the"
        " prompt's last token once it has the KV, as vLLM does",
    )


class Gateways(Strict):
    """Gateways and how they tell each other what they know."""

    count: int = Field(1, ge=1, le=64, description="Number of gateways; each request meets any of them")
    policy: str = Field(profiles.DEFAULT, description="Routing profile (docs/routing.md)")
    exchange_interval_s: float = Field(
        router.ShareSettings().interval_s,
        gt=0,
        le=5,
        description="Least time between two batches of placements and loads, s",
    )
    exchange_delay_s: float = Field(0.001, ge=0, description="How long a batch is on its way to the others, s")
    peer_timeout_s: float = Field(
        router.ShareSettings().peer_timeout_s, gt=0.2, description="Silence after which a peer's load is forgotten, s"
    )
    kv_share: float = Field(
        router.LimitSettings().kv_share,
        ge=0,
        le=2,
        description="Share of a worker's KV cache that requests in flight may fill; others wait in the gateway (0: never)",
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


class ColdStart(Strict):
    """Time from the start of a worker to its first answer, log-normal."""

    median_s: float = Field(60.0, gt=0, description="Half of the starts are quicker, s")
    sigma: float = Field(
        0.3, ge=0, le=3, description="Standard deviation of the time's logarithm; 0: always the median"
    )


class _Fault(Strict):
    at_s: float = Field(ge=0, description="When, s of simulated time")


class Kill(_Fault):
    """An engine dies with all that it holds."""

    kind: Literal["kill"] = Field(description="`kill`")
    worker: int = Field(ge=0, description="Number of the worker, counted over all pools")
    restart: bool = Field(True, description="It is started again at once, and answers after a cold start")


class Slow(_Fault):
    """An engine's steps take longer, as under a power cap that nobody was told of."""

    kind: Literal["slow"] = Field(description="`slow`")
    worker: int = Field(ge=0, description="Number of the worker")
    factor: float = Field(gt=1, le=1_000, description="Factor on the time of a step")
    for_s: float = Field(gt=0, description="How long, s")


class SlowLink(_Fault):
    """A worker's link for KV is slower."""

    kind: Literal["slow-link"] = Field(description="`slow-link`")
    worker: int = Field(ge=0, description="Number of the worker, of role prefill or decode")
    factor: float = Field(gt=1, le=1_000_000, description="Factor on the time of a transfer")
    for_s: float = Field(gt=0, description="How long, s")


class Hang(_Fault):
    """An engine takes connections and answers nothing."""

    kind: Literal["hang"] = Field(description="`hang`")
    worker: int = Field(ge=0, description="Number of the worker")
    for_s: float = Field(gt=0, description="How long, s")


class Drain(_Fault):
    """A worker takes nothing new, finishes what it has, and leaves."""

    kind: Literal["drain"] = Field(description="`drain`")
    worker: int = Field(ge=0, description="Number of the worker")


class Join(_Fault):
    """New workers are started, as in a scale-out; they serve after a cold start."""

    kind: Literal["join"] = Field(description="`join`")
    like: int = Field(0, ge=0, description="Number of a worker whose model, profile and cache they have")
    workers: int = Field(1, ge=1, le=1_000, description="Number of new workers; they are counted on from the last")


class Partition(_Fault):
    """A gateway does not reach Redis: it hears nothing of the others and of the registry, nor they of it."""

    kind: Literal["partition"] = Field(description="`partition`")
    gateway: int = Field(ge=0, description="Number of the gateway")
    for_s: float = Field(gt=0, description="How long, s")


class EventLoss(_Fault):
    """Batches between gateways and workers' reports get lost."""

    kind: Literal["event-loss"] = Field(description="`event-loss`")
    share: float = Field(gt=0, le=1, description="Share of the messages that are lost")
    for_s: float = Field(gt=0, description="How long, s")


Fault = Annotated[Kill | Slow | SlowLink | Hang | Drain | Join | Partition | EventLoss, Field(discriminator="kind")]


class Lengths(Strict):
    """Lengths in tokens; ServeGen (arXiv:2505.09999) finds prompts log-normal with a Pareto tail, and answers exponential."""

    mean: float = Field(gt=0, description="Mean, tokens")
    law: Literal["log-normal", "exponential"] = Field("log-normal", description="Law of the lengths")
    sigma: float = Field(
        1.0, ge=0, le=4, description="Standard deviation of a log-normal length's logarithm; 0: always the mean"
    )
    tail_share: float = Field(0.0, ge=0, le=1, description="Share of lengths by a Pareto law of the same mean instead")
    tail_shape: float = Field(1.5, gt=1, le=10, description="Shape of that law; the smaller, the heavier its tail")
    most: int = Field(100_000, ge=1, description="Longer ones are cut to this, tokens")


class _Generator(Strict):
    name: api.Name = Field(description="Name of the tenant; it stands in the outcomes")
    model: str | None = Field(None, description="Model that is asked for; unset: drawn by the models' shares")
    slo_class: str | None = Field(None, description="Class of its requests; unset: drawn by the classes' shares")
    rate_rps: float = Field(gt=0, description="Requests per second, on average over the duration")
    duration_s: float = Field(gt=0, description="How long it sends, s")
    start_s: float = Field(0.0, ge=0, description="When it begins, s")
    output: Lengths = Field(Lengths(mean=200), description="Lengths of the answers")


class Clients(_Generator):
    """Clients that each send in bursts of their own, as ServeGen finds them; each has a system prompt of its own."""

    kind: Literal["clients"] = Field(description="`clients`")
    clients: int = Field(20, ge=1, le=10_000, description="Number of clients")
    skew: float = Field(1.1, ge=0, le=4, description="Zipf exponent of the clients' rates; 0: all alike")
    law: Literal["gamma", "weibull"] = Field("gamma", description="Law of the gaps between a client's requests")
    cv: float = Field(2.0, gt=0, le=20, description="Coefficient of variation of the gaps; 1: Poisson")
    system_tokens: int = Field(0, ge=0, le=100_000, description="Tokens with which all prompts of one client begin")
    input: Lengths = Field(Lengths(mean=1_000), description="Lengths of the prompts, without what they share")
    spread: float = Field(
        0.0,
        ge=0,
        le=4,
        description="How far clients differ: standard deviation of the logarithms of their mean prompts, and of their mean"
        " answers; 0: all alike",
    )


class PrefixGroups(_Generator):
    """Groups of prompts that begin alike, in random order, by a Poisson process."""

    kind: Literal["prefix-groups"] = Field(description="`prefix-groups`")
    groups: int = Field(64, ge=1, description="Number of prefixes")
    prefix_tokens: int = Field(2_048, ge=1, description="Tokens that the prompts of a group share")
    skew: float = Field(0.0, ge=0, le=4, description="Zipf exponent of the groups' shares; 0: all alike")
    input: Lengths = Field(Lengths(mean=256), description="Lengths of what follows the prefix")


class Conversations(_Generator):
    """Conversations that begin by a Poisson process; each turn repeats all before it, as in Mooncake's trace."""

    kind: Literal["conversations"] = Field(description="`conversations`")
    turns: float = Field(3.0, ge=1, description="Mean number of turns (geometric)")
    gap_s: Lengths = Field(Lengths(mean=150, sigma=1.1), description="Time from one turn to the next, s")
    system_tokens: int = Field(512, ge=0, le=100_000, description="Tokens with which all conversations begin")
    input: Lengths = Field(Lengths(mean=8_000, sigma=1.1), description="Lengths of the first message")
    turn_input: Lengths = Field(Lengths(mean=500), description="Lengths of the further messages")


Generator = Annotated[Clients | PrefixGroups | Conversations, Field(discriminator="kind")]


class Scenario(Strict):
    """A whole simulation."""

    trace: Trace | None = Field(None, description="A recorded workload")
    generators: tuple[Generator, ...] = Field((), description="Made-up workloads, all at once, instead of a trace")
    generated_block_tokens: int = Field(
        64, ge=1, le=16_383, description="Tokens per block in which generated prompts may share a prefix"
    )
    fleet: Fleet = Field(Fleet(), description="Workers")
    gateways: Gateways = Field(Gateways(), description="Gateways")
    classes: Annotated[tuple[SloClass, ...], Field(min_length=1)] = Field(
        (SloClass(),), description="Classes of requests and their targets"
    )
    cold_start: ColdStart = Field(ColdStart(), description="How long a worker takes to start")
    faults: tuple[Fault, ...] = Field((), description="What goes wrong")
    speed: float = Field(1.0, gt=0, description="How many times faster than recorded requests arrive")
    seed: int = Field(0, ge=0, description="Of everything that is drawn")

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Scenario:
        if self.trace is not None and self.generators:
            raise ValueError("give a trace or generators, not both")
        roles = [pool.role for model in self.fleet.models for pool in model.pools for _ in range(pool.workers)]
        workers = len(roles)
        for at, fault in enumerate(self.faults):
            if isinstance(fault, Kill | Slow | SlowLink | Hang | Drain) and fault.worker >= workers:
                raise ValueError(f"faults.{at}.worker is {fault.worker}; there are workers 0 to {workers - 1}")
            if isinstance(fault, SlowLink) and roles[fault.worker] == api.ROLE_UNIFIED:
                raise ValueError(
                    f"faults.{at}.worker is {fault.worker}, of role unified; only those of role prefill and decode have a link"
                )
            if isinstance(fault, Join) and fault.like >= workers:
                raise ValueError(f"faults.{at}.like is {fault.like}; there are workers 0 to {workers - 1}")
            if isinstance(fault, Partition) and fault.gateway >= self.gateways.count:
                raise ValueError(
                    f"faults.{at}.gateway is {fault.gateway}; there are gateways 0 to {self.gateways.count - 1}"
                )
        models, classes = [each.name for each in self.fleet.models], [each.name for each in self.classes]
        for key, names in (("fleet.models", models), ("classes", classes)):
            if len(set(names)) != len(names):
                raise ValueError(f"{key}: each name may appear once, not {', '.join(names)}")
        for at, each in enumerate(self.generators):
            for key, name, known in (("model", each.model, models), ("slo_class", each.slo_class, classes)):
                if name is not None and name not in known:
                    raise ValueError(f"generators.{at}.{key} is {name!r}; there are {', '.join(known)}")
        return self


class ScenarioError(ValueError):
    """A scenario cannot be read or played; the message names the key, the value and what is allowed."""


def parse(values: dict[str, Any]) -> Scenario:
    """A scenario of plain values. Raises ScenarioError."""
    try:
        return Scenario.model_validate(values)
    except pydantic.ValidationError as exc:
        raise ScenarioError("; ".join(_line(item) for item in exc.errors())) from exc


def under(told: Scenario, policy: str) -> Scenario:
    """The scenario with one policy for all its models. Raises ScenarioError where there is none of that name."""
    values = told.model_dump()
    values["gateways"]["policy"] = policy
    for model in values["fleet"]["models"]:
        model["policy"] = None
    return parse(values)


def load(path: pathlib.Path) -> Scenario:
    """The scenario in a YAML file; paths of a trace and of profiles (`.json`) are relative to it. Raises ScenarioError."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ScenarioError(f"{path}: {' '.join(str(exc).split())}") from exc
    if not isinstance(values, dict):
        raise ScenarioError(f"{path}: a scenario is a mapping of keys to values")
    try:
        told = parse(_beside(path.parent, values))
    except ScenarioError as exc:
        raise ScenarioError(f"{path}: {exc}") from exc
    if told.trace is None:
        return told
    trace = told.trace.model_copy(update={"path": path.parent / told.trace.path})
    return told.model_copy(update={"trace": trace})


class _Loader(yaml.SafeLoader):
    """One that takes no key twice: YAML has it so, and PyYAML takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # As written: later on what `<<` merges is among the keys, and may be written again.
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    said = f"the key {key.value!r} is there twice"
                    raise yaml.composer.ComposerError(None, None, said, key.start_mark)
                seen.add(key.value)
        return node


def _beside(folder: pathlib.Path, values: Any) -> Any:
    """The same with the paths of profiles below `folder`."""
    if isinstance(values, dict):
        return {
            key: str(folder / each)
            if key == "profile" and isinstance(each, str) and each.endswith(".json")
            else _beside(folder, each)
            for key, each in values.items()
        }
    return [_beside(folder, each) for each in values] if isinstance(values, list) else values


def _line(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    if not where:
        return str(message)
    shown = "" if item["type"] in ("missing", "extra_forbidden") else f" is {str(item['input'])[:60]!r}"
    return f"{where}{shown}: {message}"

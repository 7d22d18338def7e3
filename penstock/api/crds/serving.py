"""What a worker of a model deployment runs: model, engine, hardware, roles."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from penstock.api.crds import base, values

# What the operator sets itself, and what would put a secret into the object.
RESERVED_ARGS = (
    "--host", "--port", "--model", "--served-model-name", "--tensor-parallel-size", "--pipeline-parallel-size",
    "--data-parallel-size", "--tp", "--pp", "--dp", "--model-path", "--tp-size", "--pp-size", "--dp-size",
)  # fmt: skip
SECRET_ARGS = ("--api-key", "--hf-token", "--admin-api-key")
_REFUSED = RESERVED_ARGS + SECRET_ARGS
_SECRET_ENDINGS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "ACCESS_KEY", "SECRET_KEY")
# Engines take the beginning of a flag for the flag: from here on these are no other's,
_BEGINNINGS = (
    "--hos", "--por", "--serv", "--tens", "--pip", "--model-pa", "--tp-s", "--pp-s", "--dp-s", "--api-k", "--hf-t", "--admi",
)  # fmt: skip
# and these are so with some engine, but longer ones may be others.
_SHORT = (
    "--ho", "--po", "--ser", "--ten", "--pi", "--api", "--api-", "--adm", "--model-p", "--data-parallel-s",
    "--data-parallel-si", "--data-parallel-siz",
)  # fmt: skip
# They take an underscore for a dash as well.
_BEGIN = tuple(dict.fromkeys(each for flag in _BEGINNINGS for each in (flag, "--" + flag[2:].replace("-", "_"))))

ARGS_RULE = base.FieldRule(
    f"self.all(a, !(a.split('=')[0].replace('_', '-') in {[*_REFUSED, *_SHORT]}) && "
    f"!{list(_BEGIN)}.exists(b, a.startsWith(b)))",
    lambda args: (
        not any(arg.split("=")[0].replace("_", "-") in _REFUSED + _SHORT or arg.startswith(_BEGIN) for arg in args)
    ),
    f"Penstock sets {', '.join(RESERVED_ARGS)} itself, and secrets ({', '.join(SECRET_ARGS)}) go by env from a Secret",
)
Arg = Annotated[str, Field(pattern=r"^--[a-z0-9][-a-zA-Z0-9_.]*(=.*)?$", max_length=1024)]
Args = Annotated[base.Many[Arg], Field(max_length=64), ARGS_RULE]


class ModelCache(base.Part):
    """Where downloaded files are kept, so that the next worker on the node starts sooner."""

    node_path: values.FilePath | None = Field(None, description="Folder of the node that keeps the files")
    claim_name: values.DnsName | None = Field(None, description="PersistentVolumeClaim that keeps the files")
    size_limit: Annotated[values.Quantity, values.POSITIVE] = Field(
        "500Gi", description="Least recently used models go above this"
    )

    RULES = (base.one_of("node_path", "claim_name"),)


class Model(base.Part):
    """The model that clients ask for, and where its files are."""

    name: Annotated[values.ModelName, base.Immutable("cannot be changed: make a new ModelDeployment instead")] = Field(
        description="Name that clients ask for"
    )
    source: values.Source | None = Field(None, description="Where the files are; a simulated engine needs none")
    cache: ModelCache | None = Field(None, description="Keeps downloaded files; none means with the Pod only")
    tokenizer: values.ModelName | None = Field(None, description="Tokenizer's repository where it is not the model's")


class EnvVar(base.Part):
    """An environment variable of the engine: by value, or from a Secret."""

    RULES = (
        base.one_of("value", "secret_key_ref"),
        base.Rule(
            f"!has(self.value) || !self.name.matches('(?i)({'|'.join(_SECRET_ENDINGS)})$')",
            lambda env: env.value is None or not env.name.upper().endswith(_SECRET_ENDINGS),
            f"a secret is given by secretKeyRef, never by value (the name ends with {', '.join(_SECRET_ENDINGS)})",
            ".value",
        ),
    )

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)] = Field(
        description="Name of the variable"
    )
    value: Annotated[str, Field(max_length=4096)] | None = Field(None, description="Its value")
    secret_key_ref: values.SecretKey | None = Field(None, description="The key of a Secret that holds its value")


class Lora(base.Part):
    """Room for LoRA adapters in each engine."""

    max_loaded: int = Field(8, ge=1, le=1024, description="Adapters in the accelerator's memory at a time")
    max_rank: int = Field(16, ge=8, le=512, description="Highest rank of an adapter")


class Resources(base.Part):
    """CPU and memory of a worker's Pod; accelerators are counted by the parallelism."""

    cpu: Annotated[values.Quantity, values.POSITIVE] = Field(4, description="CPU cores")
    memory: Annotated[values.Quantity, values.POSITIVE] = Field("16Gi", description="Memory")
    shared_memory: Annotated[values.Quantity, values.POSITIVE] = Field(
        "1Gi", description="Size of /dev/shm, which the ranks of one worker talk through"
    )


class Engine(base.Part):
    """Which engine the workers run."""

    RULES = (
        base.Rule(
            "self.kind != 'sglang' || has(self.image)",
            lambda it: it.kind != "sglang" or it.image is not None,
            "must be given where kind is sglang: no image of it was tested",
            ".image",
        ),
    )

    kind: Literal["vllm", "sglang", "sim"] = Field("vllm", description="Engine; sim answers with made-up text")
    image: Annotated[str, Field(pattern=r"^[!-~]+$", max_length=512)] | None = Field(
        None,
        description="Container image; vllm has one that was tested with this version, sim the operator's, sglang none",
    )
    args: Args = Field((), description="The engine's own flags, as --name=value")
    env: Annotated[base.Many[EnvVar], Field(max_length=64), base.keyed("name")] = Field(
        (), description="Environment variables"
    )
    lora: Lora | None = Field(None, description="Starts the engine ready for LoRA adapters")
    profile: values.DnsName = Field("h100-llama3.1-8b", description="Performance profile of a simulated engine")
    resources: Resources = Field(Resources(), description="CPU and memory of a worker")
    run_as_user: int = Field(
        65_532,
        ge=0,
        le=2_147_483_647,
        description="Number of the user that the engine's container runs as. 0 is root, for images that need it: the Pod then "
        "keeps its image's home, and a namespace that enforces Pod Security baseline takes it, one with restricted does not",
    )
    start_timeout: Annotated[values.Duration, values.between("10s", "24h")] = Field(
        "30m",
        description="An engine that does not answer by then is started again; a download before that has no limit",
    )


class Parallelism(base.Part):
    """How one worker is spread over accelerators and nodes."""

    RULES = (
        base.Rule(
            "(self.tensor * self.pipeline * self.data) % self.nodes == 0",
            lambda it: (it.tensor * it.pipeline * it.data) % it.nodes == 0,
            "must divide tensor x pipeline x data, so that each node holds as many accelerators",
            ".nodes",
        ),
    )

    tensor: int = Field(1, ge=1, le=256, description="Tensor-parallel ranks")
    pipeline: int = Field(1, ge=1, le=256, description="Pipeline stages")
    data: int = Field(1, ge=1, le=256, description="Data-parallel ranks of one worker")
    nodes: int = Field(1, ge=1, le=256, description="Nodes of one worker; above 1 it runs on a RayCluster of its own")


class Accelerator(base.Part):
    """One kind of hardware that a worker may run on."""

    profile: values.DnsName = Field(description="Name of an AcceleratorProfile")
    parallelism: Parallelism | None = Field(None, description="Parallelism on this hardware, where it differs")
    args: Args = Field((), description="Flags of the engine on this hardware, on top of the engine's")
    fallback_after: Annotated[values.Duration, values.between("10s", "24h")] = Field(
        "5m", description="A worker that finds no place for so long is tried on the next kind of the list"
    )


Accelerators = Annotated[base.Many[Accelerator], Field(max_length=8), base.keyed("profile")]  # in order of preference


class RoleScaling(base.Part):
    """Bounds of a role's own count."""

    RULES = (base.in_order("min_replicas", "max_replicas"),)

    min_replicas: int = Field(0, ge=0, le=10_000, description="Least workers of this role in a set")
    max_replicas: int = Field(10_000, ge=1, le=10_000, description="Most workers of this role in a set")


class Role(base.Part):
    """A stage that workers serve, with its own count and hardware."""

    RULES = (
        base.Rule(
            "!has(self.scaling) || (self.scaling.minReplicas <= self.replicas && "
            "self.replicas <= self.scaling.maxReplicas)",
            lambda role: (
                role.scaling is None or role.scaling.min_replicas <= role.replicas <= role.scaling.max_replicas
            ),
            "must lie between scaling.minReplicas and scaling.maxReplicas",
            ".replicas",
        ),
    )

    name: values.RoleName = Field(description="unified, prefill and decode are built in; others may be named")
    replicas: int = Field(1, ge=0, le=10_000, description="Workers of this role in each of the replicas of the whole")
    accelerators: Accelerators = Field((), description="Hardware of this role, best first; none means the deployment's")
    parallelism: Parallelism | None = Field(None, description="Parallelism of this role's workers, where it differs")
    args: Args = Field((), description="Flags of the engine in this role, on top of the engine's")
    resources: Resources | None = Field(None, description="CPU and memory of this role's workers, where they differ")
    scaling: RoleScaling | None = Field(None, description="Bounds for changing the ratio between the roles")

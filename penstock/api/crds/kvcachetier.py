"""`KVCacheTier`: memory and disks of nodes that hold KV blocks beyond the accelerators' own."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from penstock.api.crds import base, values


class Medium(base.Part):
    """What a node gives to the tier."""

    RULES = (
        base.Rule(
            "has(self.path) == (self.kind == 'Disk')",
            lambda it: (it.path is not None) == (it.kind == "Disk"),
            "must be given where kind is Disk, and only there",
            ".path",
        ),
    )

    kind: Literal["Memory", "Disk"] = Field(description="Main memory, or a folder on a disk")
    size: Annotated[values.Quantity, values.POSITIVE] = Field(description="Size on each node")
    path: values.FilePath | None = Field(None, description="Folder of the node")


class Quota(base.Part):
    """Most that one tenant's blocks may take."""

    tenant: values.DnsName = Field(description="Tenant in the same namespace")
    percent: int = Field(ge=1, le=100, description="Share of the tier")


class Replication(base.Part):
    """Copies of blocks on other nodes."""

    copies: int = Field(1, ge=1, le=8, description="Nodes that hold a block; 1 means no copy")
    after_hits: int = Field(2, ge=1, le=1000, description="A block is copied after so many reads")


class Spec(base.Part):
    """What is wanted."""

    node_selector: values.NodeSelector = Field({}, description="Labels of the nodes that hold it; none means all")
    media: Annotated[base.Many[Medium], Field(min_length=1, max_length=2), base.keyed("kind")] = Field(
        description="What each node gives, quickest first",
    )
    codec: Annotated[
        Literal["None", "FP8", "INT8", "INT4"], base.Immutable("cannot be changed: make a new KVCacheTier instead")
    ] = Field("None", description="How blocks are packed; all but None lose precision")
    replication: Replication = Field(Replication(), description="Copies of blocks on other nodes")
    quotas: Annotated[base.Many[Quota], Field(max_length=64), base.keyed("tenant")] = Field(
        (), description="Limits of tenants"
    )
    models: Annotated[base.Many[values.ModelName], Field(max_length=64), base.UNIQUE] = Field(
        (),
        description="Models whose blocks it takes; none means all",
    )


class Status(base.Status):
    """What is there."""

    nodes: int = Field(0, ge=0, description="Nodes that hold it")
    bytes_used: int = Field(0, ge=0, description="Bytes of blocks", json_schema_extra={"format": "int64"})


class KVCacheTier(base.Resource):
    """Memory and disks of nodes that hold KV blocks beyond the accelerators' own, for all workers of a namespace."""

    KIND: ClassVar[base.Kind] = base.Kind(
        "kvcachetiers",
        "kvt",
        True,
        (
            base.Column("Codec", ".spec.codec", description="How blocks are packed"),
            base.Column("Nodes", ".status.nodes", "integer", "Nodes that hold it"),
            base.Column("Ready", '.status.conditions[?(@.type=="Ready")].status', description="Whether it is used"),
            base.Column("Age", ".metadata.creationTimestamp", "date", "Time since it was made"),
        ),
    )

    kind: Literal["KVCacheTier"] = Field("KVCacheTier", description="KVCacheTier")
    spec: Spec = Field(description="What is wanted")
    status: Status = Field(Status(), description="What is there; written by the operator")

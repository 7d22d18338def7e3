"""`LoraAdapter`: an adapter that workers of a model deployment serve beside the base model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from penstock.api.crds import base, values


class OnDemand(base.Part):
    """Loaded where a request for it comes, and unloaded when it is not used."""

    idle_timeout: Annotated[values.Duration, values.between("1m", "720h")] = Field(
        "1h", description="Without a request for so long it is unloaded"
    )


class Loading(base.Part):
    """On which workers it is loaded: exactly one of these."""

    RULES = (base.one_of("replicas", "percent", "on_demand"),)

    replicas: int | None = Field(None, ge=1, le=10_000, description="On so many workers")
    percent: int | None = Field(None, ge=1, le=100, description="On this share of the workers, rounded up")
    on_demand: OnDemand | None = Field(None, description="Where requests for it come")


class Spec(base.Part):
    """What is wanted."""

    base_model: Annotated[values.DnsName, base.Immutable("cannot be changed: make a new LoraAdapter instead")] = Field(
        description="ModelDeployment in the same namespace whose engine.lora leaves room for it"
    )
    model: Annotated[values.ModelName, base.Immutable("cannot be changed: make a new LoraAdapter instead")] = Field(
        description="Name that clients ask for"
    )
    source: values.Source = Field(description="Where the adapter's files are")
    rank: int | None = Field(None, ge=1, le=512, description="Rank, where it is to be checked before loading")
    loading: Loading = Field(Loading(percent=100), description="On which workers it is loaded")
    pinned: bool = Field(False, description="Never unloaded to make room for another")


class Status(base.Status):
    """What is there."""

    loaded_on: int = Field(0, ge=0, description="Workers that have it loaded")
    wanted_on: int = Field(0, ge=0, description="Workers that should have it loaded")


class LoraAdapter(base.Resource):
    """A LoRA adapter that workers of a ModelDeployment serve under a name of its own."""

    KIND: ClassVar[base.Kind] = base.Kind(
        "loraadapters",
        "lora",
        True,
        (
            base.Column("Model", ".spec.model", description="Name that clients ask for"),
            base.Column("Base", ".spec.baseModel", description="ModelDeployment that serves it"),
            base.Column("Ready", '.status.conditions[?(@.type=="Ready")].status', description="Whether it is served"),
            base.Column("Loaded", ".status.loadedOn", "integer", "Workers that have it loaded"),
            base.Column("Age", ".metadata.creationTimestamp", "date", "Time since it was made"),
        ),
        (".spec.baseModel", ".spec.model"),
    )

    kind: Literal["LoraAdapter"] = Field("LoraAdapter", description="LoraAdapter")
    spec: Spec = Field(description="What is wanted")
    status: Status = Field(Status(), description="What is there; written by the operator")

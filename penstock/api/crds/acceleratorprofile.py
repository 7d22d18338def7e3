"""`AcceleratorProfile`: what one kind of accelerator costs, draws and does."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from penstock.api.crds import base, values


class Power(base.Part):
    """Power of one accelerator."""

    RULES = (
        base.Rule(
            "self.idleWatts <= self.minCapWatts && self.minCapWatts <= self.maxWatts",
            lambda it: it.idle_watts <= it.min_cap_watts <= it.max_watts,
            "idleWatts <= minCapWatts <= maxWatts must hold",
        ),
    )

    idle_watts: int = Field(ge=0, le=100_000, description="Without work, W")
    min_cap_watts: int = Field(ge=1, le=100_000, description="Lowest cap that it takes, W")
    max_watts: int = Field(ge=1, le=100_000, description="Highest power, W")


class Cost(base.Part):
    """What one accelerator costs."""

    per_hour: float = Field(ge=0, le=1e9, description="Cost of an hour")
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", max_length=3)] = Field("USD", description="ISO 4217 code")


class Availability(base.Part):
    """How surely and how soon more of them can be had."""

    kind: Literal["Fixed", "OnDemand", "Spot"] = Field(
        "Fixed", description="Fixed are there already; OnDemand can be added; Spot can be added and taken away"
    )
    start_time: Annotated[values.Duration, values.between("0s", "24h")] = Field(
        "0s", description="Time until an added node takes Pods"
    )
    max_count: int | None = Field(None, ge=0, le=1_000_000, description="Most that can be had; absent where unknown")


class Measurement(base.Part):
    """One measured point: a model under a load, at a cap."""

    model: values.ModelName = Field(description="Model")
    engine: values.Label = Field("vllm", description="Engine")
    accelerators: int = Field(1, ge=1, le=1024, description="Accelerators of the worker")
    prompt_tokens: int = Field(ge=1, le=100_000_000, description="Mean prompt length, tokens")
    output_tokens: int = Field(ge=1, le=100_000_000, description="Mean output length, tokens")
    concurrency: int = Field(ge=1, le=100_000, description="Requests in flight")
    cap_watts: int | None = Field(None, ge=1, le=100_000, description="Cap of each accelerator, W; absent means none")
    tokens_per_second: float = Field(gt=0, le=1e9, description="Output tokens per second of the worker")
    ttft: Annotated[values.Duration, values.between("0s", "24h")] = Field(description="Median time to the first token")
    itl: Annotated[values.Duration, values.between("0s", "24h")] = Field(description="Median time between tokens")
    watts: float | None = Field(
        None, gt=0, le=1e6, description="Mean power of each accelerator, W; absent where unknown"
    )


class Spec(base.Part):
    """What is known."""

    resource_name: Annotated[
        values.LabelKey, base.Immutable("cannot be changed: make a new AcceleratorProfile instead")
    ] = Field(description="Resource that Pods ask for, such as nvidia.com/gpu")
    node_selector: values.NodeSelector = Field({}, description="Labels of nodes that have this kind")
    product: Annotated[str, Field(max_length=128)] = Field("", description="The maker's name of it")
    memory: Annotated[values.Quantity, values.POSITIVE] = Field(description="Memory of one accelerator")
    per_node: int = Field(8, ge=1, le=1024, description="Accelerators of one node")
    power: Power | None = Field(None, description="Power of one; absent where unknown")
    cost: Cost | None = Field(None, description="Cost of one; absent where unknown")
    availability: Availability = Field(Availability(), description="How more of them can be had")
    measurements: base.Many[Measurement] = Field((), description="Measured points", max_length=256)


class Status(base.Status):
    """What is there."""

    nodes: int | None = Field(
        None, ge=0, description="Nodes that take Pods, match the selector and offer the resource; absent where unknown"
    )
    allocatable: int | None = Field(
        None, ge=0, description="Accelerators on them that Pods may have, taken or not; absent where unknown"
    )


class AcceleratorProfile(base.Resource):
    """What one kind of accelerator costs, draws and does: what placement, scaling and power capping choose by."""

    KIND: ClassVar[base.Kind] = base.Kind(
        "acceleratorprofiles",
        "accel",
        False,
        (
            base.Column("Resource", ".spec.resourceName", description="Resource that Pods ask for"),
            base.Column("Memory", ".spec.memory", description="Memory of one"),
            base.Column("Cost", ".spec.cost.perHour", "number", "Cost of an hour"),
            base.Column("Watts", ".spec.power.maxWatts", "integer", "Highest power, W"),
            base.Column("Per Node", ".spec.perNode", "integer", "Accelerators of one node"),
            base.Column("Nodes", ".status.nodes", "integer", "Nodes that offer them"),
            base.Column(
                "Allocatable", ".status.allocatable", "integer", "Accelerators that Pods may have, taken or not"
            ),
            base.Column("Ready", '.status.conditions[?(@.type=="Ready")].status', description="Whether there are any"),
            base.Column("Age", ".metadata.creationTimestamp", "date", "Time since it was made"),
        ),
        (".spec.resourceName",),
    )

    kind: Literal["AcceleratorProfile"] = Field("AcceleratorProfile", description="AcceleratorProfile")
    spec: Spec = Field(description="What is known")
    status: Status = Field(Status(), description="What is there")

"""`ModelDeployment`: a model served by workers on a cluster."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from penstock.api.crds import base, operation, serving, values


class Routing(base.Part):
    """How requests find a worker."""

    profile: values.Label = Field("default", description="Routing profile")


def _spread(it: Spec) -> bool:
    """Whether some worker spans nodes: by the deployment's parallelism, a role's or an accelerator's."""
    given = [it.parallelism, *(role.parallelism for role in it.roles)]
    lists = [it.accelerators, *(role.accelerators for role in it.roles)]
    given += [each.parallelism for accelerators in lists for each in accelerators]
    return any(each is not None and each.nodes > 1 for each in given)


_ALONE = "(!has({0}.parallelism) || {0}.parallelism.nodes == 1)"
_EACH_ALONE = f"(!has({{0}}.accelerators) || {{0}}.accelerators.all(a, {_ALONE.format('a')}))"

_ALL_ALONE = (
    f"{_ALONE.format('self')} && {_EACH_ALONE.format('self')} && "
    f"self.roles.all(r, {_ALONE.format('r')} && {_EACH_ALONE.format('r')})"
)


# A role that goes takes all its workers along before those of another can serve.
_SAME_ROLES = base.Immutable(
    "the names of roles cannot be changed: make a new ModelDeployment instead, and delete this one when it serves",
    "self.size() == oldSelf.size() && self.all(r, oldSelf.exists(o, o.name == r.name))",
    lambda before, after: {role.name for role in before} == {role.name for role in after},
)
_MOST_WORKERS = 10_000


class Spec(base.Part):
    """What is wanted."""

    RULES = (
        base.Rule(
            "!has(self.scaling) || (self.scaling.minReplicas <= self.replicas && "
            "self.replicas <= self.scaling.maxReplicas)",
            lambda it: it.scaling is None or it.scaling.min_replicas <= it.replicas <= it.scaling.max_replicas,
            "must lie between scaling.minReplicas and scaling.maxReplicas",
            ".replicas",
        ),
        base.Rule(
            f"self.roles.all(r, self.replicas * r.replicas <= {_MOST_WORKERS})",
            lambda it: all(it.replicas * role.replicas <= _MOST_WORKERS for role in it.roles),
            f"replicas times the replicas of a role must be at most {_MOST_WORKERS}",
            ".replicas",
        ),
        base.Rule(
            "self.engine.kind == 'sim' || has(self.model.source)",
            lambda it: it.engine.kind == "sim" or it.model.source is not None,
            "must name a model.source, unless engine.kind is sim",
            ".model",
        ),
        base.Rule(
            "self.roles.exists(r, r.name == 'prefill') == self.roles.exists(r, r.name == 'decode')",
            lambda it: len({"prefill", "decode"} & {role.name for role in it.roles}) != 1,
            "prefill and decode must be given together: a request needs both",
            ".roles",
        ),
        base.Rule(
            "self.hosting != 'RayServe' || has(self.engine.image)",
            lambda it: it.hosting != "RayServe" or it.engine.image is not None,
            "must be given where hosting is RayServe: an image with Ray, this package and the engine",
            ".engine.image",
        ),
        base.Rule(
            f"self.hosting != 'RayServe' || ({_ALL_ALONE})",
            lambda it: it.hosting != "RayServe" or not _spread(it),
            "must be Pods where a worker spans nodes (parallelism.nodes above 1, of the deployment, a role or an accelerator)",
            ".hosting",
        ),
        base.Rule(
            f"self.engine.kind == 'vllm' || ({_ALL_ALONE})",
            lambda it: it.engine.kind == "vllm" or not _spread(it),
            "must be vllm where a worker spans nodes (parallelism.nodes above 1, of the deployment, a role or an accelerator)",
            ".engine.kind",
        ),
    )

    model: serving.Model = Field(description="The model, and where its files are")
    replicas: int = Field(
        1, ge=0, le=10_000, description="How many times the roles' workers run; with one role, the number of workers"
    )
    roles: Annotated[base.Many[serving.Role], Field(min_length=1, max_length=8), base.keyed("name"), _SAME_ROLES] = (
        Field(
            (serving.Role(name="unified"),),
            description="Stages of serving, each with its own count and hardware",
        )
    )
    engine: serving.Engine = Field(serving.Engine(), description="The engine that the workers run")
    accelerators: serving.Accelerators = Field((), description="Hardware, best first; none means CPU only")
    parallelism: serving.Parallelism = Field(
        serving.Parallelism(), description="How one worker is spread over accelerators and nodes"
    )
    hosting: Literal["Pods", "RayServe"] = Field(
        "Pods", description="Pods of their own (a RayCluster where a worker spans nodes), or a RayService"
    )
    slo_classes: Annotated[base.Many[operation.SloClass], Field(max_length=16), base.keyed("name")] = Field(
        (), description="Latency targets"
    )
    priority: values.Priority = Field(
        0, description="Against other deployments when hardware is short; lower goes first"
    )
    routing: Routing = Field(Routing(), description="How requests find a worker")
    gateway: operation.Gateway | None = Field(
        None, description="Gateways of the Gateway API that send requests here; none: no HTTPRoute is made"
    )
    scaling: operation.Scaling | None = Field(
        None, description="Bounds within which replicas is changed; none: by hand"
    )
    kv_cache: operation.KvCache = Field(operation.KvCache(), description="The KV cache of the workers")
    drain: operation.Drain = Field(operation.Drain(), description="How a worker stops")
    rollout: operation.Rollout = Field(operation.Rollout(), description="How workers are replaced")
    placement: operation.Placement = Field(operation.Placement(), description="Where the workers may run")


Time = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]


class RoleStatus(base.Part):
    """The workers of one role."""

    name: values.RoleName = Field(description="Name of the role")
    wanted: int = Field(0, ge=0, description="Workers that are wanted")
    present: int = Field(0, ge=0, description="Workers that exist, in any state")
    ready: int = Field(0, ge=0, description="Workers that take requests")
    updated: int = Field(0, ge=0, description="Workers of the newest revision")
    accelerator: str = Field("", description="AcceleratorProfile that new workers are placed on", max_length=253)
    accelerator_since: Time | None = Field(None, description="Since when new workers are placed on it")


class RolloutStatus(base.Part):
    """Where the roll-out is; what the operator has to know from one look to the next."""

    phase: str = Field(
        "",
        description="Complete, Progressing, Canary, Paused, Stopped, RolledBack",
        pattern="^[A-Za-z]*$",
        max_length=32,
    )
    rejected: str = Field("", description="Revision that has failed and is not tried again", max_length=63)
    cause: str = Field("", description="Why it has failed", max_length=2048)
    progress_time: Time | None = Field(None, description="When it last came nearer to its end")
    updated_ready: int = Field(0, ge=0, description="Workers of the new revision that take requests")
    remaining: int = Field(0, ge=0, description="Workers of other revisions")
    canary_time: Time | None = Field(None, description="Since when the whole canary has been ready")
    canary_passed: bool = Field(False, description="Whether the canary was no worse than the rest")
    fault_time: Time | None = Field(
        None, description="Since when a worker of the new revision cannot be pulled, configured or started"
    )


class Status(base.Status):
    """What is there."""

    replicas: int = Field(0, ge=0, description="Replicas that exist in full, ready or not")
    ready_replicas: int = Field(0, ge=0, description="Replicas whose workers all take requests")
    workers: str = Field("", description="Ready and wanted workers, as 3/4", max_length=32)
    selector: str = Field("", description="Label selector of the workers' Pods, for the scale subresource")
    roles: base.Many[RoleStatus] = Field(
        (), description="Workers by role", max_length=8, json_schema_extra=base.list_map("name")
    )
    revision: str = Field("", description="Revision that all workers have, or had before the roll-out", max_length=63)
    update_revision: str = Field("", description="Revision that is being rolled out", max_length=63)
    older_images: int = Field(
        0,
        ge=0,
        description="Workers that run another default image than a new one would; a restart of the roll-out brings it",
    )
    rollout: RolloutStatus = Field(RolloutStatus(), description="Where the roll-out is")


class ModelDeployment(base.Resource):
    """A model served by workers on this cluster: what it is, what it runs on, how it is scaled, rolled out, stopped."""

    KIND: ClassVar[base.Kind] = base.Kind(
        "modeldeployments",
        "md",
        True,
        (
            base.Column("Model", ".spec.model.name", description="Name that clients ask for"),
            base.Column("Ready", '.status.conditions[?(@.type=="Ready")].status', description="Whether it serves"),
            base.Column("Workers", ".status.workers", description="Ready and wanted workers"),
            base.Column("Replicas", ".spec.replicas", "integer", "Replicas that are wanted"),
            base.Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', description="Why it is so"),
            base.Column("Engine", ".spec.engine.kind", description="Engine", wide=True),
            base.Column("Revision", ".status.revision", description="Revision of the workers", wide=True),
            base.Column("Age", ".metadata.creationTimestamp", "date", "Time since it was made"),
        ),
        (".spec.model.name", ".spec.engine.kind"),
        scaled=True,
    )

    kind: Literal["ModelDeployment"] = Field("ModelDeployment", description="ModelDeployment")
    spec: Spec = Field(description="What is wanted")
    status: Status = Field(Status(), description="What is there; written by the operator")

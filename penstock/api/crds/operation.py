"""How a model deployment is run: SLOs, scaling, rollout, drain, KV cache, placement."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from penstock.api.crds import base, values

# As a rule: the server rounds a fractional `minimum` where it compares it with a whole number, and takes 0.
QUANTILE = base.FieldRule(
    "self >= 0.5 && self <= 0.999", lambda value: 0.5 <= value <= 0.999, "must be a number from 0.5 to 0.999, like 0.95"
)
Latency = Annotated[values.Duration, values.between("1ms", "24h")]


class SloClass(base.Part):
    """Latency targets of a class of requests."""

    RULES = (
        base.Rule(
            "has(self.ttft) || has(self.itl) || has(self.e2e)",
            lambda slo: slo.ttft is not None or slo.itl is not None or slo.e2e is not None,
            "at least one of ttft, itl, e2e must be given",
        ),
        base.Rule(
            "!has(self.ttft) || !has(self.e2e) || duration(self.ttft) <= duration(self.e2e)",
            lambda slo: (
                slo.ttft is None or slo.e2e is None or values.duration_s(slo.ttft) <= values.duration_s(slo.e2e)
            ),
            "must be at most e2e",
            ".ttft",
        ),
    )

    name: values.Label = Field(description="Name that requests ask for")
    ttft: Latency | None = Field(None, description="Time to the first token")
    itl: Latency | None = Field(None, description="Time between tokens")
    e2e: Latency | None = Field(None, alias="e2e", description="Time to the last token")
    quantile: Annotated[float, Field(gt=0, lt=1), QUANTILE] = Field(
        0.95, description="Part of the requests that must meet the targets"
    )
    priority: values.Priority = Field(0, description="Lower is served first, as in vLLM")


Day = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
TimeOfDay = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", max_length=5)]


class Schedule(base.Part):
    """Bounds that hold for a part of the week in place of the usual ones."""

    RULES = (
        base.in_order("min_replicas", "max_replicas"),
        base.Rule(
            "self.start != self.end",
            lambda it: it.start != it.end,
            "must differ from start; an end before the start is on the next day",
            ".end",
        ),
        base.Rule(
            "has(self.minReplicas) || has(self.maxReplicas)",
            lambda it: it.min_replicas is not None or it.max_replicas is not None,
            "at least one of minReplicas, maxReplicas must be given",
        ),
    )

    name: values.Label = Field(description="Name of the schedule")
    time_zone: Annotated[str, Field(pattern=r"^[A-Za-z]([-A-Za-z0-9_+/]*[A-Za-z0-9])?$", max_length=64)] = Field(
        "UTC", description="IANA time zone, such as Europe/Berlin"
    )
    days: Annotated[base.Many[Day], Field(min_length=1, max_length=7), base.UNIQUE] = Field(
        ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"), description="Days on which it begins"
    )
    start: TimeOfDay = Field(description="When it begins, HH:MM")
    end: TimeOfDay = Field(description="When it ends, HH:MM")
    min_replicas: int | None = Field(None, ge=0, le=10_000, description="Least replicas meanwhile")
    max_replicas: int | None = Field(None, ge=1, le=10_000, description="Most replicas meanwhile")


class Scaling(base.Part):
    """Bounds of the number of replicas."""

    RULES = (
        base.in_order("min_replicas", "max_replicas"),
        base.Rule(
            "!has(self.schedules) || self.schedules.all(s, (has(s.minReplicas) ? s.minReplicas : self.minReplicas) <= "
            "(has(s.maxReplicas) ? s.maxReplicas : self.maxReplicas))",
            lambda it: all(
                (it.min_replicas if each.min_replicas is None else each.min_replicas)
                <= (it.max_replicas if each.max_replicas is None else each.max_replicas)
                for each in it.schedules
            ),
            "with the bound that a schedule leaves out, its minReplicas must be at most its maxReplicas",
            ".schedules",
        ),
    )

    min_replicas: int = Field(0, ge=0, le=10_000, description="Least replicas")
    max_replicas: int = Field(10, ge=1, le=10_000, description="Most replicas")
    idle_timeout: Annotated[values.Duration, values.between("1m", "720h")] | None = Field(
        None, description="Without a request for so long the replicas go to zero, where minReplicas is 0"
    )
    schedules: Annotated[base.Many[Schedule], Field(max_length=16), base.keyed("name")] = Field(
        (), description="Other bounds at given times"
    )


class Canary(base.Part):
    """A share of the workers gets the new revision first and is watched."""

    percent: int = Field(10, ge=1, le=50, description="Share of the workers, rounded up")
    watch_for: Annotated[values.Duration, values.between("10s", "168h")] = Field(
        "10m", description="How long it is compared with the rest before the roll-out goes on"
    )


def _is_zero(value: int | str) -> bool:
    return value in (0, "0%")


class Rollout(base.Part):
    """How workers are replaced when the specification changes."""

    RULES = (
        base.Rule(
            "!(string(self.maxUnavailable) in ['0', '0%']) || "
            "(self.strategy == 'Surge' && !(string(self.maxSurge) in ['0', '0%']))",
            lambda it: not _is_zero(it.max_unavailable) or (it.strategy == "Surge" and not _is_zero(it.max_surge)),
            "must be above 0 where strategy is InPlace or maxSurge is 0: else nothing can be replaced",
            ".maxUnavailable",
        ),
    )

    strategy: Literal["Surge", "InPlace"] = Field(
        "Surge", description="Surge starts new workers first; InPlace reuses the accelerators of those that go"
    )
    max_surge: values.IntOrPercent = Field(1, description="Workers above the wanted number, where strategy is Surge")
    max_unavailable: values.IntOrPercent = Field(0, description="Workers that may be missing meanwhile")
    canary: Canary | None = Field(None, description="Tries the new revision on a share of the workers first")
    on_failure: Literal["RollBack", "Stop"] = Field(
        "RollBack", description="What follows failing readiness or worse latencies of the new revision"
    )
    progress_deadline: Annotated[values.Duration, values.between("1m", "24h")] = Field(
        "1h", description="A roll-out without progress for so long has failed"
    )
    revision_history_limit: int = Field(10, ge=1, le=100, description="Old revisions that are kept")
    paused: bool = Field(False, description="Holds the roll-out where it is")


class Drain(base.Part):
    """How a worker stops."""

    timeout: Annotated[values.Duration, values.between("0s", "24h")] = Field(
        "10m", description="Requests in flight have so long to end before the Pod goes"
    )


class ParentRef(base.Part):
    """A Gateway of the Gateway API, as an HTTPRoute names it."""

    name: values.DnsName = Field(description="Name of the Gateway")
    namespace: values.Label | None = Field(None, description="Its namespace; none means the deployment's")
    section_name: values.DnsName | None = Field(None, description="One listener of it; none means all")
    port: int | None = Field(None, ge=1, le=65_535, description="Listeners of this port only")


_DISTINCT = base.FieldRule(
    "self.all(x, self.exists_one(y, y == x))",
    lambda items: all(items.count(each) == 1 for each in items),
    "each Gateway may be named once",
)
_HOST = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
Hostname = Annotated[str, Field(pattern=_HOST, max_length=253)]
_SEGMENT = r"[A-Za-z0-9][-A-Za-z0-9._~]*"
PathPrefix = Annotated[str, Field(pattern=rf"^/({_SEGMENT}(/{_SEGMENT})*)?$", max_length=256)]


class Gateway(base.Part):
    """The HTTPRoute from Gateways of the Gateway API to the workers, by way of an InferencePool."""

    parent_refs: Annotated[base.Many[ParentRef], Field(min_length=1, max_length=16), _DISTINCT] = Field(
        description="Gateways that carry the requests"
    )
    hostnames: Annotated[base.Many[Hostname], Field(max_length=16), base.UNIQUE] = Field(
        (), description="Host names of requests; none means those of the listeners"
    )
    path_prefix: PathPrefix = Field("/", description="Paths begin so; it is taken away before the worker sees them")


class KvCache(base.Part):
    """The KV cache of the workers."""

    tier: values.DnsName | None = Field(None, description="KVCacheTier in the same namespace that holds more blocks")
    prefix_caching: bool = Field(True, description="Keeps blocks of finished requests for others of the same prefix")
    dtype: Literal["auto", "fp8"] = Field("auto", description="Number format in the accelerator's memory")
    events: bool = Field(True, description="The engine publishes its blocks, so that routing knows them exactly")


class Toleration(base.Part):
    """A taint that the workers' Pods stand, as in a Pod."""

    RULES = (
        base.Rule(
            "self.operator != 'Exists' || !has(self.value)",
            lambda it: it.operator != "Exists" or it.value is None,
            "must not be given where operator is Exists",
            ".value",
        ),
        base.Rule(
            "has(self.key) || self.operator == 'Exists'",
            lambda it: it.key is not None or it.operator == "Exists",
            "must be Exists where no key is given",
            ".operator",
        ),
        base.Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            lambda it: it.toleration_seconds is None or it.effect == "NoExecute",
            "may be given with effect NoExecute only",
            ".tolerationSeconds",
        ),
    )

    key: values.LabelKey | None = Field(None, description="Key of the taint; none with Exists stands all of them")
    operator: Literal["Equal", "Exists"] = Field("Equal", description="How the taint's value is compared")
    value: values.LabelValue | None = Field(None, description="Value of the taint")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Effect of the taint; none means all"
    )
    toleration_seconds: int | None = Field(None, ge=0, le=2_147_483_647, description="How long NoExecute is stood, s")


class TopologySpread(base.Part):
    """Spreads the workers of a role over zones, racks or nodes."""

    topology_key: values.LabelKey = Field(description="Label of nodes, such as topology.kubernetes.io/zone")
    max_skew: int = Field(1, ge=1, le=100, description="Most by which two places may differ")
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        "ScheduleAnyway", description="What happens where the spread cannot be kept"
    )


class DisruptionBudget(base.Part):
    """PodDisruptionBudget of each role's workers."""

    max_unavailable: values.IntOrPercent = Field(1, description="Workers that evictions may take at a time")


class Placement(base.Part):
    """Where the workers' Pods may run."""

    node_selector: values.NodeSelector = Field({}, description="Labels that a node must have")
    tolerations: base.Many[Toleration] = Field((), description="Taints that are stood", max_length=16)
    topology_spread: Annotated[base.Many[TopologySpread], Field(max_length=4), base.keyed("topology_key")] = Field(
        (), description="Spread over zones, racks or nodes"
    )
    priority_class_name: values.DnsName | None = Field(None, description="PriorityClass of the Pods")
    scheduler_name: values.DnsName | None = Field(None, description="Scheduler other than the cluster's default")
    runtime_class_name: values.DnsName | None = Field(None, description="RuntimeClass of the Pods")
    service_account_name: values.DnsName | None = Field(None, description="ServiceAccount of the Pods")
    image_pull_secrets: Annotated[base.Many[values.SecretName], Field(max_length=8), base.keyed("name")] = Field(
        (), description="Secrets for pulling images"
    )
    disruption_budget: DisruptionBudget = Field(
        DisruptionBudget(), description="How many workers evictions may take at a time"
    )

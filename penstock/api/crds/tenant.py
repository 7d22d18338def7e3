"""`Tenant`: who sends requests, with which keys, and how much of them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from penstock.api.crds import base, values


class ApiKey(base.Part):
    """One API key, held in a Secret."""

    name: values.Label = Field(description="Name by which the key shows in metrics and logs")
    secret_key_ref: values.SecretKey = Field(description="The key of a Secret that holds it")


class Limits(base.Part):
    """Most of what is taken from the tenant. What is not given is not limited."""

    RULES = (
        base.Rule(
            "!has(self.burstTokens) || has(self.tokensPerMinute)",
            lambda it: it.burst_tokens is None or it.tokens_per_minute is not None,
            "may be given with tokensPerMinute only",
            ".burstTokens",
        ),
    )

    requests_per_minute: int | None = Field(None, ge=1, le=1_000_000_000, description="Requests per minute")
    tokens_per_minute: int | None = Field(
        None, ge=1, le=1_000_000_000_000, description="Prompt and output tokens per minute"
    )
    burst_tokens: int | None = Field(None, ge=1, le=1_000_000_000_000, description="Tokens that may be taken at once")
    concurrent_requests: int | None = Field(None, ge=1, le=1_000_000, description="Requests in flight")


class Budget(base.Part):
    """Most of what the tenant may use in a period."""

    RULES = (
        base.Rule(
            "has(self.tokens) || has(self.cost)",
            lambda it: it.tokens is not None or it.cost is not None,
            "at least one of tokens, cost must be given",
        ),
    )

    period: Literal["Day", "Week", "Month"] = Field(description="Period in UTC; it begins anew with each")
    tokens: int | None = Field(None, ge=1, le=1_000_000_000_000_000, description="Tokens")
    cost: float | None = Field(None, gt=0, le=1e12, description="Cost, in the currency of the accelerator profiles")
    when_spent: Literal["Refuse", "LowestPriority"] = Field("Refuse", description="What happens to further requests")


class CacheSharing(base.Part):
    """With whom prefixes are shared: who shares them can find out by timing what the other has sent."""

    RULES = (
        base.Rule(
            "has(self.group) == (self.mode == 'Group')",
            lambda it: (it.group is not None) == (it.mode == "Group"),
            "must be given where mode is Group, and only there",
            ".group",
        ),
    )

    mode: Literal["Own", "Group", "All"] = Field("Own", description="Nobody, a group of tenants, or all tenants")
    group: values.Label | None = Field(None, description="Name of the group")


class Spec(base.Part):
    """What is granted."""

    api_keys: Annotated[base.Many[ApiKey], Field(max_length=64), base.keyed("name")] = Field(
        (), description="Keys that requests are known by"
    )
    models: Annotated[base.Many[values.ModelName], Field(max_length=256), base.UNIQUE] = Field(
        (),
        description="Models that may be asked for; none means all",
    )
    limits: Limits = Field(Limits(), description="Rates")
    priority: values.Priority = Field(0, description="Lower is served first")
    weight: int = Field(1, ge=1, le=1000, description="Share against other tenants of the same priority")
    budgets: Annotated[base.Many[Budget], Field(max_length=3), base.keyed("period")] = Field(
        (), description="Most use in a period"
    )
    cache_sharing: CacheSharing = Field(CacheSharing(), description="With whom prefixes are shared")
    suspended: bool = Field(False, description="Refuses all requests")


class Status(base.Status):
    """What is there."""

    keys: int = Field(0, ge=0, description="API keys that were found in their Secrets")


class Tenant(base.Resource):
    """Who sends requests: API keys by reference, rates, priority, fairness weight, budgets."""

    KIND: ClassVar[base.Kind] = base.Kind(
        "tenants",
        "ten",
        True,
        (
            base.Column("Priority", ".spec.priority", "integer", "Lower is served first"),
            base.Column("Weight", ".spec.weight", "integer", "Share against others of the same priority"),
            base.Column("Keys", ".status.keys", "integer", "API keys that were found"),
            base.Column("Ready", '.status.conditions[?(@.type=="Ready")].status', description="Whether it is enforced"),
            base.Column("Age", ".metadata.creationTimestamp", "date", "Time since it was made"),
        ),
    )

    kind: Literal["Tenant"] = Field("Tenant", description="Tenant")
    spec: Spec = Field(description="What is granted")
    status: Status = Field(Status(), description="What is there; written by the operator")

"""`PowerDomain`: a row or rack of machines with a power budget and a breaker."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from penstock.api.crds import base, values

Watts = Annotated[int, Field(ge=1, le=1_000_000_000)]


class TripPoint(base.Part):
    """One point of a breaker's curve."""

    load_percent: int = Field(ge=100, le=2000, description="Load, in percent of the rating")
    holds_for: Annotated[values.Duration, values.between("1ms", "24h")] = Field(
        description="How long the breaker stands it"
    )


class Breaker(base.Part):
    """The breaker above the domain."""

    RULES = (
        base.Rule(
            "!has(self.tripCurve) || self.tripCurve.all(x, self.tripCurve.all(y, x.loadPercent >= y.loadPercent || "
            "duration(x.holdsFor) >= duration(y.holdsFor)))",
            lambda it: all(
                x.load_percent >= y.load_percent or values.duration_s(x.holds_for) >= values.duration_s(y.holds_for)
                for x in it.trip_curve
                for y in it.trip_curve
            ),
            "a higher loadPercent must have a shorter or equal holdsFor",
            ".tripCurve",
        ),
    )

    rated_watts: Watts = Field(description="Load that it carries for ever, W")
    trip_curve: Annotated[base.Many[TripPoint], Field(max_length=16), base.keyed("load_percent")] = Field(
        (),
        description="Overloads and how long it stands them",
    )


class Derived(base.Part):
    """The budget follows what was measured."""

    percentile: float = Field(99.9, ge=50, le=100, description="Percentile of the measured power that must fit")
    over: Annotated[values.Duration, values.between("1h", "2160h")] = Field(
        "168h", description="How far back is looked"
    )
    headroom_percent: values.Percent = Field(5, description="Added on top of it")


class Budget(base.Part):
    """What the domain may draw: exactly one of these."""

    RULES = (base.one_of("watts", "derived"),)

    watts: Watts | None = Field(None, description="Budget, W")
    derived: Derived | None = Field(None, description="Derived from measurements")


class Thresholds(base.Part):
    """Shares of the budget at which something happens."""

    RULES = (
        base.Rule(
            "self.releasePercent < self.capPercent && self.capPercent < self.brakePercent",
            lambda it: it.release_percent < it.cap_percent < it.brake_percent,
            "releasePercent < capPercent < brakePercent must hold",
        ),
    )

    release_percent: int = Field(75, ge=1, le=200, description="Caps are lifted again below this")
    cap_percent: int = Field(85, ge=1, le=200, description="Low-priority machines are capped above this")
    brake_percent: int = Field(100, ge=1, le=200, description="Every machine is capped at once above this")


class Redfish(base.Part):
    """Power meters of a management controller or of a power distribution unit."""

    url: values.Url = Field(description="Address")
    credentials: values.SecretName = Field(description="Secret with username and password")


class PrometheusQuery(base.Part):
    """Power as a query."""

    url: values.Url = Field(description="Address of Prometheus")
    query: Annotated[str, Field(min_length=1, max_length=2048)] = Field(description="A query that gives watts")
    credentials: values.SecretName | None = Field(None, description="Secret with username and password, or token")


class Telemetry(base.Part):
    """Where the domain's power is read: exactly one of redfish, prometheus, members."""

    RULES = (base.one_of("redfish", "prometheus", "members"),)

    redfish: Redfish | None = Field(None, description="A management controller or power distribution unit")
    prometheus: PrometheusQuery | None = Field(None, description="A query")
    members: Literal["Sum"] | None = Field(None, description="The sum of what the members' node agents read")
    interval: Annotated[values.Duration, values.between("100ms", "5m")] = Field(
        "1s", description="Time between readings"
    )
    stale_after: Annotated[values.Duration, values.between("1s", "1h")] = Field(
        "10s", description="A reading older than this is not used"
    )
    when_stale: Literal["HoldCaps", "LowestSafe"] = Field(
        "LowestSafe", description="What the caps do without readings: stay, or go to what the breaker surely stands"
    )


class Brake(base.Part):
    """The last resort, quicker than any policy."""

    cap_percent: int = Field(50, ge=10, le=100, description="Cap of every accelerator, in percent of its highest power")
    hold_for: Annotated[values.Duration, values.between("1s", "1h")] = Field(
        "60s", description="It is released so long after the power is below the cap threshold"
    )


class PriorityFloor(base.Part):
    """How far machines of one priority may be capped."""

    priority: values.Priority = Field(description="Priority of the deployments on a machine, or higher")
    floor_percent: int = Field(ge=10, le=100, description="They keep at least this share of their highest power")


class Spec(base.Part):
    """What is wanted."""

    RULES = (
        base.Rule(
            "!has(self.budget.watts) || !has(self.breaker) || self.budget.watts <= self.breaker.ratedWatts",
            lambda it: it.budget.watts is None or it.breaker is None or it.budget.watts <= it.breaker.rated_watts,
            "watts must be at most breaker.ratedWatts",
            ".budget",
        ),
    )

    node_selector: Annotated[dict[str, values.LabelValue], Field(min_length=1, max_length=16), values.LABEL_KEYS] = (
        Field(description="Labels of the members' nodes")
    )
    parent: values.DnsName | None = Field(None, description="PowerDomain that this one draws from")
    budget: Budget = Field(description="What it may draw")
    breaker: Breaker | None = Field(None, description="The breaker above it")
    thresholds: Thresholds = Field(Thresholds(), description="Shares of the budget at which something happens")
    telemetry: Telemetry = Field(Telemetry(members="Sum"), description="Where its power is read")
    brake: Brake = Field(Brake(), description="The last resort")
    priorities: Annotated[base.Many[PriorityFloor], Field(max_length=16), base.keyed("priority")] = Field(
        (),
        description="Floors by priority; without one any machine may be capped to its hardware's least",
    )


class Status(base.Status):
    """What is there."""

    budget_watts: int = Field(0, ge=0, description="Budget in force, W")
    drawn_watts: int | None = Field(None, ge=0, description="Power at the last reading, W; absent where unknown")
    members: int = Field(0, ge=0, description="Nodes in the domain")


class PowerDomain(base.Resource):
    """A row or rack of machines with a power budget and a breaker, whose members are capped by priority."""

    KIND: ClassVar[base.Kind] = base.Kind(
        "powerdomains",
        "pd",
        False,
        (
            base.Column("Budget", ".status.budgetWatts", "integer", "Budget in force, W"),
            base.Column("Drawn", ".status.drawnWatts", "integer", "Power at the last reading, W"),
            base.Column("Members", ".status.members", "integer", "Nodes in the domain"),
            base.Column("Ready", '.status.conditions[?(@.type=="Ready")].status', description="Whether it is kept"),
            base.Column("Parent", ".spec.parent", description="Domain that it draws from", wide=True),
            base.Column("Age", ".metadata.creationTimestamp", "date", "Time since it was made"),
        ),
        (".spec.parent",),
    )

    kind: Literal["PowerDomain"] = Field("PowerDomain", description="PowerDomain")
    spec: Spec = Field(description="What is wanted")
    status: Status = Field(Status(), description="What is there; written by the controller")

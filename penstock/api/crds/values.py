"""Values that fields of the custom resources share: durations, quantities, names, references."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import Field

from penstock.api.crds import base

# Durations: Go's form, which users of kubectl know from --timeout.
_DURATION = r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+"
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
Duration = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$", max_length=32)]


def duration_s(text: str) -> float:
    """Seconds of a duration such as `1h30m` or `500ms`. Raises ValueError where it is none."""
    if not re.fullmatch(_DURATION, text):
        raise ValueError(f"a duration is written like 500ms, 30s, 5m or 1h30m, not {text!r}")
    return sum(float(number) * _UNIT_S[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", text))


def between(low: str, high: str) -> base.FieldRule:
    """Limits of a duration, both allowed."""
    least_s, most_s = duration_s(low), duration_s(high)
    return base.FieldRule(
        f"duration(self) >= duration('{low}') && duration(self) <= duration('{high}')",
        lambda text: least_s <= duration_s(text) <= most_s,
        f"must be a duration from {low} to {high}, like 30s, 5m or 1h30m",
    )


# Quantities: whole numbers, or text with Kubernetes' suffixes.
_SUFFIX = {"m": Decimal("0.001"), "": Decimal(1), "k": Decimal(1000)}
_SUFFIX |= {unit: Decimal(1000) ** power for power, unit in enumerate("MGTPE", 2)}
_SUFFIX |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)}
_QUANTITY = r"([0-9]+(?:\.[0-9]+)?)(m|k|[MGTPE]|[KMGTPE]i)?"
Quantity = (
    Annotated[int, Field(ge=0)]
    | Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|[MGTPE]|[KMGTPE]i)?$", max_length=24)]
)
IntOrPercent = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^(100|[1-9]?[0-9])%$", max_length=4)]


def quantity(value: int | str) -> Decimal:
    """The number that a Kubernetes quantity stands for. Raises ValueError where it is none."""
    match = re.fullmatch(_QUANTITY, str(value))
    if match is None:
        raise ValueError(f"a quantity is written like 500m, 4 or 80Gi, not {value!r}")
    return Decimal(match[1]) * _SUFFIX[match[2] or ""]


POSITIVE = base.FieldRule(
    "type(self) == int ? self > 0 : quantity(self).isGreaterThan(quantity('0'))",
    lambda value: quantity(value) > 0,
    "must be a quantity above 0, like 500m, 4 or 80Gi",
)

# Names. The patterns are those of the API server for the same things.
DnsName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", max_length=253)
]
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
RoleName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=16)]
LabelKey = Annotated[
    str,
    Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$", max_length=317),
]
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)]
DataKey = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._/:]*[A-Za-z0-9])?$", max_length=256)]
# Printable ASCII: what `\s` means differs between the two sides. Without `@`, which is where a password would be.
Url = Annotated[str, Field(pattern=r"^https?://[!-.0-?A-~]+(/[!-?A-~]*)?$", max_length=2048)]
# An absolute path without a `..` in it.
FilePath = Annotated[str, Field(pattern=r"^(/([^/.\n][^/\n]*|\.[^/.\n][^/\n]*))+/?$", max_length=1024)]
Percent = Annotated[int, Field(ge=0, le=100)]
Priority = Annotated[int, Field(ge=-1000, le=1000)]

_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_KEYS = base.FieldRule(
    "self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",
    lambda labels: all(_LABEL_KEY.fullmatch(key) for key in labels),
    "keys must be label names, like example.com/zone or disk",
)
NodeSelector = Annotated[dict[str, LabelValue], Field(max_length=16), LABEL_KEYS]


class SecretKey(base.Part):
    """One key of a Secret in the same namespace."""

    name: DnsName = Field(description="Name of the Secret")
    key: DataKey = Field(description="Key in the Secret's data")


class SecretName(base.Part):
    """A Secret in the same namespace."""

    name: DnsName = Field(description="Name of the Secret")


class HubSource(base.Part):
    """Files from a model hub."""

    repo: ModelName = Field(description="Repository, such as meta-llama/Llama-3.1-8B-Instruct")
    revision: Annotated[str, Field(pattern=r"^[-A-Za-z0-9._/]+$", max_length=128)] = Field(
        "main", description="Branch, tag or commit. A commit makes a rollout repeatable"
    )
    endpoint: Url | None = Field(None, description="Address of a hub other than the engine's default")
    token: SecretKey | None = Field(None, description="Access token for repositories that are not public")


class ObjectStoreSource(base.Part):
    """Files from an object store."""

    uri: Annotated[str, Field(pattern=r"^(s3|gs)://[!-.0-?A-~]+(/[!-~]*)?$", max_length=1024)] = Field(
        description="Bucket and prefix: s3:// or gs://"
    )
    endpoint: Url | None = Field(None, description="Address of a store that speaks the same protocol")
    credentials: SecretName | None = Field(
        None,
        description="Secret whose keys become environment variables of the download (AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY); none means what s3:// finds by the identity of placement.serviceAccountName, else requests "
        "without a signature, for public buckets",
    )


class VolumeSource(base.Part):
    """Files on a volume that is there."""

    claim_name: DnsName = Field(description="PersistentVolumeClaim in the same namespace, mounted read-only")
    path: FilePath = Field("/model", description="Folder in the volume")


class Source(base.Part):
    """Where files are: exactly one of these."""

    RULES = (base.one_of("hub", "object_store", "volume", "path"),)

    hub: HubSource | None = Field(None, description="A model hub")
    object_store: ObjectStoreSource | None = Field(None, description="An object store")
    volume: VolumeSource | None = Field(None, description="A PersistentVolumeClaim")
    path: FilePath | None = Field(None, description="A folder that every node has")

"""Settings of a node agent."""

from __future__ import annotations

import pathlib
from typing import Literal

import pydantic
from pydantic import Field

from penstock.runtime import logs
from penstock.runtime import settings as base


class NodeSettings(base.Settings):
    """One agent, on one node."""

    id: str = Field(
        pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", description="Name of the node, as Kubernetes names it"
    )
    redis_url: pydantic.SecretStr = Field(
        description="Redis with the fleet's state: redis(s)://, redis(s)+sentinel:// or redis(s)+cluster://"
    )
    namespace: str = Field("default", pattern=r"^[a-z0-9-]{1,63}$", description="Namespace of the fleet in Redis")
    meters: list[Literal["nvml", "rapl"]] = Field(
        ["nvml", "rapl"],
        min_length=1,
        json_schema_extra={"uniqueItems": True},
        description="What to look for: GPUs by `nvml`, CPUs and their memory by `rapl`. One that the node lacks is no fault",
    )
    expect: list[Literal["nvml", "rapl"]] = Field(
        [],
        json_schema_extra={"uniqueItems": True},
        description="Of `meters`, those that the node must have: without one of them the agent is degraded",
    )
    sys_dir: pathlib.Path = Field(
        pathlib.Path("/sys"), description="Where the node's sysfs is; of it only `devices/virtual` is read"
    )
    interval_s: float = Field(
        1.0, ge=0.05, le=10, description="How often meters are read, s: some counters go around in half a minute"
    )
    beat_s: float = Field(
        5.0, ge=0.1, le=60, description="How often the node's sums go to Redis, s; three make a lease"
    )
    metrics_host: str = Field("127.0.0.1", min_length=1, description="Address of metrics, health and readiness")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Port of metrics (`penstock_node_*`), health and readiness; unset: none"
    )
    metrics_address_file: pathlib.Path | None = Field(None, description="File to write that address to")
    log: logs.LogSettings = logs.LogSettings()

    @pydantic.model_validator(mode="after")
    def _looked_for(self) -> NodeSettings:
        for name, given in (("meters", self.meters), ("expect", self.expect)):
            if len(set(given)) != len(given):
                raise ValueError(f"{name} must name each meter once, not {given}")
        if missing := set(self.expect) - set(self.meters):
            raise ValueError(
                f"expect must be among meters ({', '.join(self.meters)}), not {', '.join(sorted(missing))}"
            )
        return self

"""Settings of a controller."""

from __future__ import annotations

import pathlib
from typing import Literal

import pydantic
from pydantic import Field

from penstock.runtime import logs
from penstock.runtime import settings as base

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ControllerSettings(base.Settings):
    """One controller process."""

    id: str = Field("controller-0", pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$", description="Name")
    redis_url: pydantic.SecretStr = Field(
        description="Redis with the fleet's state: redis(s)://, redis(s)+sentinel:// or redis(s)+cluster://"
    )
    namespace: str = Field("default", pattern=r"^[a-z0-9-]{1,63}$", description="Namespace of the fleet in Redis")
    grpc_host: str = Field("127.0.0.1", min_length=1, description="Address of the gRPC API")
    grpc_port: int = Field(0, ge=0, le=65535, description="Port of the gRPC API; 0 takes a free one")
    grpc_address_file: pathlib.Path | None = Field(None, description="File to write the gRPC address to")
    tls_cert: pathlib.Path | None = Field(None, description="Certificate (PEM) of the gRPC API")
    tls_key: pathlib.Path | None = Field(None, description="Private key (PEM) of the gRPC API")
    tls_ca: pathlib.Path | None = Field(None, description="Clients of the gRPC API need a certificate of this CA (PEM)")
    agent_tls: pathlib.Path | None = Field(
        None,
        description="Folder with tls.crt, tls.key and ca.crt for workers' agents: `penstock drain` works with host `none`",
    )
    lease_s: float = Field(5.0, ge=0.5, le=60, description="Leader lease, s: a standby takes over within it")
    tick_s: float = Field(0.5, ge=0.05, le=10, description="How often the loop looks at the fleet, s")
    host_s: float = Field(2.0, ge=0.05, le=60, description="How often the host is asked while all is as wanted, s")
    metrics_host: str = Field("127.0.0.1", min_length=1, description="Address of the controller's own metrics")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Port of the controller's own metrics (`penstock_perf_*`); unset: none"
    )
    scrape_s: float = Field(1.0, ge=0.1, le=60, description="How often workers' metrics are read, s")
    learn_speeds: bool = Field(
        True,
        description="Gateways predict with what workers' metrics tell of their speed, where that is clearly better",
    )
    surge: int = Field(1, ge=0, le=100, description="Workers above the wanted number while others drain")
    unregistered_s: float = Field(60.0, gt=0, description="Running but unregistered for so long is replaced, s")
    host: Literal["ray", "process", "none"] = Field(
        "ray", description="Where workers run; `none`: the Kubernetes operator keeps them, the controller only looks"
    )
    ray_address: str = Field("", description="Address of a Ray cluster (GCS `host:port`, or `ray://host:port`)")
    ray_address_file: pathlib.Path | None = Field(None, description="File in which a starting Ray leaves its address")
    log_dir: pathlib.Path = Field(pathlib.Path("logs"), description="Folder of workers' logs (host `process`)")
    worker_redis_url_file: pathlib.Path | None = Field(
        None, description="File with the Redis URL, as workers see it; without it they need PENSTOCK_WORKER_REDIS_URL"
    )
    worker_temp_dir: pathlib.Path | None = Field(
        None, description="Existing folder for engines' files, as workers see it; unset: their system's temporary one"
    )
    worker_host: str = Field("127.0.0.1", min_length=1, description="Address that workers listen on")
    worker_drain_s: float = Field(120.0, ge=0, description="Longest drain of a worker, s")
    deployments_file: pathlib.Path | None = Field(
        None, description="JSON list of model deployments to create where the namespace has none"
    )
    log: logs.LogSettings = logs.LogSettings()

    @pydantic.model_validator(mode="after")
    def _one_ray(self) -> ControllerSettings:
        if self.host == "ray" and bool(self.ray_address) == (self.ray_address_file is not None):
            raise ValueError("host ray needs either ray_address or ray_address_file")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together")
        if self.agent_tls is not None and self.tls_ca is None and self.grpc_host not in _LOOPBACK:
            # Whoever reaches this API could drain workers, whose own API is closed.
            raise ValueError("agent_tls needs tls_ca, tls_cert and tls_key: clients that show who they are")
        return self

"""Settings of a gateway."""

from __future__ import annotations

import pathlib

import pydantic
from pydantic import Field

from penstock.runtime import logs
from penstock.runtime import settings as base
from router.policy import profiles


class LimitSettings(base.Settings):
    """Bounds of what a client or an engine may cost."""

    max_body_bytes: int = Field(32 << 20, ge=1_024, le=1 << 30, description="Largest request body, bytes")
    max_head_bytes: int = Field(65_536, ge=1_024, le=1 << 20, description="Largest request head, bytes")
    max_inflight: int = Field(
        8_192, ge=1, description="Requests in flight, above which clients get 503 with Retry-After"
    )
    max_attempts: int = Field(4, ge=1, le=32, description="Endpoints that one request may be tried on")
    connect_timeout_s: float = Field(2.0, gt=0, description="Time to connect to an engine, s")
    first_byte_timeout_s: float = Field(600.0, gt=0, description="Time until an engine's first byte, s")
    idle_timeout_s: float = Field(120.0, gt=0, description="Longest silence inside an answer, s")
    total_timeout_s: float = Field(3_600.0, gt=0, description="Longest answer, s")
    body_timeout_s: float = Field(60.0, gt=0, description="Time for a request to arrive, s")
    keep_alive_s: float = Field(75.0, gt=0, description="How long an idle client connection is kept, s")
    upstream_idle_s: float = Field(30.0, gt=0, description="How long an idle engine connection is kept, s")
    silence_s: float = Field(
        2.0, gt=0, description="Silence of an engine with requests in flight after which its health is asked, s"
    )
    retry_after_s: int = Field(1, ge=1, description="Retry-After of an overloaded answer, s")
    kv_share: float = Field(
        1.0,
        ge=0,
        le=2,
        description="Share of an endpoint's KV cache that requests in flight may fill; others wait in the gateway (0: never)",
    )
    hold_s: float = Field(60.0, ge=0, description="Longest such wait; then the request is sent all the same, s")
    drain_s: float = Field(30.0, ge=0, description="Time for streams to end when the gateway stops, s")


class IndexSettings(base.Settings):
    """The prefix index."""

    budget_bytes: int = Field(256 << 20, ge=1 << 16, description="Memory bound of the whole index, bytes")


class ShareSettings(base.Settings):
    """What gateways tell each other through Redis."""

    interval_s: float = Field(0.02, gt=0, le=5, description="Least time between two batches of placements and load, s")
    peer_timeout_s: float = Field(3.0, gt=0.2, description="Silence after which a peer's load is forgotten, s")


class PickerSettings(base.Settings):
    """The endpoint picker (ext_proc) for an Envoy that carries requests itself."""

    host: str = Field("127.0.0.1", min_length=1, description="Address that it listens on")
    port: int | None = Field(None, ge=0, le=65535, description="Its port; unset: there is none")
    tls_cert: pathlib.Path | None = Field(None, description="Certificate (PEM) of the port")
    tls_key: pathlib.Path | None = Field(None, description="Private key (PEM) of the port")
    tls_ca: pathlib.Path | None = Field(None, description="Who asks needs a certificate of this CA (PEM)")


class GatewaySettings(base.Settings):
    """One gateway process."""

    id: str = Field("gw-0", pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$", description="Name of this gateway")
    host: str = Field("127.0.0.1", min_length=1, description="Address that clients connect to")
    port: int = Field(8080, ge=0, le=65535, description="Port that clients connect to; 0 takes a free one")
    admin_host: str = Field("127.0.0.1", min_length=1, description="Address of the admin port")
    admin_port: int = Field(0, ge=0, le=65535, description="Port for metrics and debug; 0 takes a free one")
    advertise_host: str | None = Field(
        None, min_length=1, description="Address that others reach both ports at, where they listen on all; unset: host"
    )
    policy: str = Field(profiles.DEFAULT, description="Routing profile: " + ", ".join(profiles.names()))
    policies: dict[str, str] = Field(
        default_factory=dict, description="Routing profile per model name, before `policy`"
    )
    endpoints: tuple[str, ...] = Field((), description="URLs of OpenAI-compatible servers, instead of a registry")
    model: str | None = Field(None, description="Model that all `endpoints` serve; unset asks each for its models")
    redis_url: pydantic.SecretStr | None = Field(
        None,
        description="Redis with the registry, instead of `endpoints`: redis(s)://, redis(s)+sentinel:// or redis(s)+cluster://",
    )
    namespace: str = Field("default", pattern=r"^[a-z0-9-]{1,63}$", description="Namespace of the fleet in Redis")
    api_keys_file: pathlib.Path | None = Field(
        None, description="File with `tenant: sha256-of-key` lines; unset lets every client in"
    )
    tls_cert: pathlib.Path | None = Field(None, description="Certificate chain (PEM) for the client port")
    tls_key: pathlib.Path | None = Field(None, description="Private key (PEM) for the client port")
    limits: LimitSettings = LimitSettings()
    index: IndexSettings = IndexSettings()
    share: ShareSettings = ShareSettings()
    picker: PickerSettings = PickerSettings()
    log: logs.LogSettings = logs.LogSettings()

    @pydantic.field_validator("policy")
    @classmethod
    def _policy_exists(cls, name: str) -> str:
        return profiles.by_name(name).name

    @pydantic.field_validator("policies")
    @classmethod
    def _policies_exist(cls, names: dict[str, str]) -> dict[str, str]:
        return {model: profiles.by_name(name).name for model, name in names.items()}

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> GatewaySettings:
        if bool(self.endpoints) == (self.redis_url is not None):
            raise ValueError("give either endpoints (--endpoint URL, repeated) or redis_url, not both or neither")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together")
        return self

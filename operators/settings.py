"""Settings of an operator."""

from __future__ import annotations

import pathlib

import pydantic
from pydantic import Field

from penstock.api.crds import values
from penstock.runtime import logs
from penstock.runtime import settings as base


class LeaseSettings(base.Settings):
    """The Lease by which one of several operators leads."""

    name: values.DnsName = Field("penstock-operator", description="Name of the Lease")
    namespace: str = Field(
        "", max_length=63, description="Namespace of the Lease; empty: that of the Pod (of the kubeconfig's context)"
    )
    duration_s: float = Field(8.0, ge=2, le=60, description="A leader that has not renewed for so long is replaced, s")
    renew_s: float = Field(1.5, ge=0.2, le=20, description="How often it is renewed, and looked at by the others, s")

    @pydantic.model_validator(mode="after")
    def _ends_in_time(self) -> LeaseSettings:
        if self.renew_s * 2 > self.duration_s:
            raise ValueError("lease.renew_s must be at most half of lease.duration_s")
        return self


class OperatorSettings(base.Settings):
    """One operator process."""

    id: str = Field(
        "operator-0", pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$", description="Name, such as the Pod's"
    )
    redis_url: pydantic.SecretStr = Field(
        description="Redis with the fleets' state, as the operator reaches it; URLs as the gateways'"
    )
    redis_secret: values.DnsName = Field(
        "penstock-redis",
        description="Secret with the Redis URL for workers; it has to be in each namespace with workers",
    )
    redis_key: str = Field("url", min_length=1, max_length=253, description="Key of the URL in that Secret")
    redis_ca_secret: values.DnsName | None = Field(
        None, description="Secret with `ca.crt`, mounted into workers at /etc/penstock-redis-ca for `?ssl_ca_certs=`"
    )
    agent_tls_secret: values.DnsName | None = Field(
        None,
        description="Secret with tls.crt (of the name `penstock-agent`), tls.key and ca.crt, in each namespace with workers: "
        "their agents serve a gRPC API to clients of this CA; unset: none",
    )
    pull_secrets: tuple[values.DnsName, ...] = Field(
        (),
        max_length=8,
        description="Secrets for the registry of these images, in each namespace with workers; "
        "beside those of `placement.imagePullSecrets`",
    )
    worker_image: str = Field(min_length=1, description="Image of simulated workers, of agents and of downloads")
    vllm_image: str = Field(
        "vllm/vllm-openai:v0.32.0", min_length=1, description="Image of vLLM where a deployment names none"
    )
    picker: str = Field(
        "",
        pattern=r"^(([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/)?[a-z]([-a-z0-9]{0,61}[a-z0-9])?:[0-9]{1,5})?$",
        description="Service of the gateways' endpoint picker, as `namespace/name:port`: deployments in that namespace get an "
        "InferencePool, as it names a picker beside it only; without `namespace/` all do; empty: none",
    )
    kubeconfig: pathlib.Path | None = Field(
        None, description="Kubeconfig; unset: the Pod's ServiceAccount, or kubectl's own file outside of a cluster"
    )
    namespaces: tuple[values.Label, ...] = Field((), description="Namespaces that are looked after; none means all")
    lease: LeaseSettings = LeaseSettings()
    workers: int = Field(8, ge=1, le=256, description="Objects that are worked on at a time")
    resync_s: float = Field(300.0, ge=5, le=86_400, description="How often everything is looked at again, s")
    backoff_max_s: float = Field(
        30.0, ge=1, le=600, description="Longest wait before a pass that failed is made again, s"
    )
    metrics_host: str = Field("127.0.0.1", min_length=1, description="Address of metrics and health")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of `/metrics`, `/healthz` and `/readyz`; 0 takes a free one; unset: none",
    )
    metrics_address_file: pathlib.Path | None = Field(None, description="File to write the address of metrics to")
    log: logs.LogSettings = logs.LogSettings()

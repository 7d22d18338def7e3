"""What one worker is to be."""

from __future__ import annotations

import os
import pathlib

import pydantic
from pydantic import Field

from penstock.api import types
from penstock.runtime import errors

REDIS_URL_ENV = "PENSTOCK_WORKER_REDIS_URL"


class WorkerSpec(pydantic.BaseModel):
    """Everything that a host needs to start one worker. It holds no secret: the Redis URL is read where it runs."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    id: types.Name
    deployment: types.Name
    model: types.ModelName
    role: types.Role = types.ROLE_UNIFIED
    engine: types.EngineSpec = types.EngineSpec()
    host: str = Field("127.0.0.1", description="Address that the engine listens on")
    engine_url: str | None = Field(
        None, pattern=r"^http://[^/]+/?$", description="An engine that another starts, as the agent reaches it"
    )
    command: tuple[str, ...] = Field(
        (), description="Starts the engine of `engine_url`, as a child; none: another does"
    )
    start_s: float | None = Field(None, gt=0, description="Longest start of such a child, s; unset: no limit")
    kv_events: str | None = Field(None, description="KV events of such an engine, as the agent reaches them")
    kv_replay: str | None = Field(None, description="Replay socket of such an engine")
    agent_port: int | None = Field(None, ge=0, le=65535, description="Port for `/drain` and `/healthz`; unset: none")
    control_port: int | None = Field(
        None, ge=0, le=65535, description="Port of the agent's gRPC API, which speaks TLS only; unset: none"
    )
    control_tls: pathlib.Path | None = Field(
        None, description="Folder with tls.crt, tls.key and ca.crt: clients of that API need a certificate of this CA"
    )
    namespace: str = Field("default", description="Namespace of the fleet in Redis")
    redis_url_file: pathlib.Path | None = Field(
        None, description=f"File with the Redis URL, for its owner only; without it ${REDIS_URL_ENV} holds the URL"
    )
    temp_dir: pathlib.Path | None = Field(None, description="Where the engine keeps files; unset: the system's")
    lease_s: float = Field(3.0, gt=0, description="Lease of the registration, s")
    renew_s: float = Field(1.0, gt=0, description="How often the lease is renewed, s")
    settle_s: float = Field(0.3, ge=0, description="Time for gateways to see a drain, s")
    drain_s: float = Field(120.0, ge=0, description="Longest drain: then open streams are cut, s")
    revision: str = Field("", max_length=63, description="Revision of the deployment that the worker was made of")
    drains_by_registry: bool = Field(
        False, description="Drains and ends where the registry says draining; else only whoever started it says so"
    )
    model_folder: pathlib.Path | None = Field(
        None, description="Folder of the engine's files on a shared volume, kept from being cleared away meanwhile"
    )
    num_cpus: float = Field(0.01, ge=0, description="CPUs that Ray books for the worker")
    num_gpus: float = Field(0.0, ge=0, description="GPUs that Ray books: an engine of the worker's sees no others")

    @pydantic.model_validator(mode="after")
    def _never_open(self) -> WorkerSpec:
        if (self.control_port is None) != (self.control_tls is None):
            raise ValueError("control_port and control_tls belong together")
        if self.command and self.engine_url is None:
            raise ValueError("command needs engine_url, where the engine that it starts answers")
        return self

    def redis_url(self) -> str:
        """The URL, from the environment or the file. Raises `TerminalError` where there is neither."""
        if url := os.environ.get(REDIS_URL_ENV):
            return url
        if self.redis_url_file is None:
            raise errors.TerminalError(f"worker {self.id}: no Redis URL; set {REDIS_URL_ENV} or redis_url_file")
        try:
            return self.redis_url_file.read_text().strip()
        except OSError as exc:
            raise errors.TerminalError(f"worker {self.id}: {self.redis_url_file}: {exc.strerror}") from exc

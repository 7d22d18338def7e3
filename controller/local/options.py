"""What `penstock up` is told."""

from __future__ import annotations

import dataclasses
import pathlib

from penstock.api import types


@dataclasses.dataclass(frozen=True)
class UpOptions:
    """Options of one local fleet."""

    model: str = "tiny"
    workers: int = 2
    gateways: int = 2
    engine: str = "sim"
    profile: str = "cpu-tiny"
    engine_settings: dict[str, str | int | float | bool] = dataclasses.field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8080
    policy: str = "default"
    redis_url: str | None = None
    ray_address: str | None = None
    run_dir: pathlib.Path | None = None
    namespace: str = "default"
    ready_timeout_s: float = 60.0

    def deployment(self) -> types.ModelDeployment:
        """The fleet's one deployment. Raises pydantic's ValidationError."""
        name = "".join(char if char.isalnum() or char in "-." else "-" for char in self.model.lower()).strip("-.")
        return types.ModelDeployment(
            name=name[:50] or "model",
            model=self.model,
            engine=types.EngineSpec(kind=self.engine, profile=self.profile, settings=self.engine_settings),
            pools=(types.Pool(replicas=self.workers),),
            policy=self.policy,
        )

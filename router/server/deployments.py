"""Models that are deployed and the routing profiles that they ask for, read from Redis with each heartbeat."""

from __future__ import annotations

from typing import Any

import pydantic
import redis.asyncio as aioredis
from redis import exceptions

from penstock.api import types, wire
from penstock.runtime import logs
from router.dataplane import gateway
from router.policy import profiles
from router.server import degraded


class DeploymentPolicies:
    """Keeps `Gateway.deployed` and `profile_of_model` in step with the deployments; the gateway's settings come first."""

    def __init__(
        self,
        owner: gateway.Gateway,
        client: aioredis.Redis,
        keys: wire.Keys,
        health: degraded.Degraded,
        fixed: dict[str, profiles.Profile],
    ) -> None:
        self._gateway = owner
        self._redis = client
        self._key = keys.deployments
        self._health = health
        self._fixed = fixed
        self._log = logs.get("gateway")

    async def refresh(self) -> None:
        """Reads the deployments. While Redis is away, and for what cannot be read, the profiles stay as they are."""
        try:
            raw: Any = await self._redis.hgetall(self._key)
        except (exceptions.RedisError, OSError, TimeoutError) as exc:
            self._log.debug("deployments_not_read", reason=str(exc))
            return
        chosen: dict[str, profiles.Profile] = {}
        wrong: list[str] = []
        models: set[str] = set()
        for name, value in sorted(raw.items()):
            try:
                deployment = types.ModelDeployment.model_validate_json(value)
                models.add(deployment.model)
                if deployment.policy != profiles.DEFAULT:
                    chosen[deployment.model] = profiles.by_name(deployment.policy)
            except (pydantic.ValidationError, profiles.UnknownProfileError) as exc:
                # The controller refuses such a deployment, so a newer one wrote it.
                wrong.append(f"{name.decode()}: {str(exc).splitlines()[0]}")
        self._gateway.deployed = frozenset(models)
        if wrong:
            self._health.set(degraded.POLICY_UNKNOWN, "; ".join(wrong))
        else:
            self._health.clear(degraded.POLICY_UNKNOWN)
            self._gateway.profile_of_model = {**chosen, **self._fixed}

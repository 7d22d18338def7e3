"""Tells gateways and controllers which model deployments there are: the hash of deployments that they read from Redis.

Gateways take the routing profile from it, and know by it a model whose workers are all away; controllers show it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import pydantic
import redis.asyncio as aioredis

from penstock.api import types, wire
from penstock.api.crds import modeldeployment, operation, values
from penstock.runtime import logs
from penstock.runtime import redis as redis_link


class Published(Protocol):
    """Where deployments are told. All methods raise `RetryableError` while it is away, and may be repeated."""

    async def put(self, deployment: modeldeployment.ModelDeployment) -> None:
        """Tells of a deployment as it is now."""

    async def remove(self, namespace: str, name: str) -> None:
        """Tells that there is none of this name."""

    async def names(self) -> set[tuple[str, str]]:
        """Namespace and name of those that operators have told of and not taken back."""


class InMemory:
    """The twin: keeps them by namespace and name."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str], types.ModelDeployment] = {}

    async def put(self, deployment: modeldeployment.ModelDeployment) -> None:
        """See `Published`."""
        self.told[deployment.metadata.namespace, deployment.metadata.name] = as_told(deployment)

    async def remove(self, namespace: str, name: str) -> None:
        """See `Published`."""
        self.told.pop((namespace, name), None)

    async def names(self) -> set[tuple[str, str]]:
        """See `Published`."""
        return set(self.told)


class InRedis:
    """In the fleet of the deployment's namespace."""

    def __init__(self, client: aioredis.Redis, operators: Callable[[], str]) -> None:
        """`operators` tells those of one Lease apart from others that use the same Redis, as another cluster's do."""
        self._client, self._operators = client, operators
        self._log = logs.get("operator")

    async def put(self, deployment: modeldeployment.ModelDeployment) -> None:
        """See `Published`."""
        meta = deployment.metadata
        try:
            text = as_told(deployment).model_dump_json()
        except pydantic.ValidationError as exc:
            # A name that Kubernetes takes and a fleet does not: workers are kept all the same.
            self._log.warning("deployment_not_told", namespace=meta.namespace, deployment=meta.name, reason=str(exc))
            return
        with redis_link.translated("tell of a deployment"):
            # Together: in a Redis Cluster the set may be away and the fleet's hash not, and one that hangs is waited for once.
            done = await asyncio.gather(
                self._client.sadd(wire.told(self._operators()), f"{meta.namespace}/{meta.name}"),
                self._client.hset(wire.Keys(meta.namespace).deployments, meta.name, text),
                return_exceptions=True,
            )
            for each in done:
                if isinstance(each, BaseException):
                    raise each

    async def remove(self, namespace: str, name: str) -> None:
        """See `Published`."""
        with redis_link.translated("tell that a deployment is gone"):
            await self._client.hdel(wire.Keys(namespace).deployments, name)
            await self._client.srem(wire.told(self._operators()), f"{namespace}/{name}")

    async def names(self) -> set[tuple[str, str]]:
        """See `Published`."""
        with redis_link.translated("ask which deployments are told"):
            found = await self._client.smembers(wire.told(self._operators()))
        pairs = (each.decode().partition("/") for each in found if isinstance(each, bytes))
        return {(namespace, name) for namespace, _, name in pairs}


def as_told(deployment: modeldeployment.ModelDeployment) -> types.ModelDeployment:
    """A custom resource in the words of a fleet. Raises ValidationError for a name that a fleet does not take."""
    spec, meta = deployment.spec, deployment.metadata
    return types.ModelDeployment(
        name=meta.name,
        model=spec.model.name,
        engine=types.EngineSpec(kind=spec.engine.kind, profile=spec.engine.profile),
        pools=tuple(types.Pool(role=role.name, replicas=role.replicas * spec.replicas) for role in spec.roles),
        policy=spec.routing.profile,
        slo_classes=tuple(_slo(each) for each in spec.slo_classes),
        generation=max(1, meta.generation),
    )


def _slo(each: operation.SloClass) -> types.SloClass:
    ttft, itl, e2e = (
        None if text is None else values.duration_s(text) * 1e3 for text in (each.ttft, each.itl, each.e2e)
    )
    return types.SloClass(
        name=each.name, ttft_ms=ttft, itl_ms=itl, e2e_ms=e2e, quantile=each.quantile, priority=each.priority
    )

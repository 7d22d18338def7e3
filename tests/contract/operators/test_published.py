"""What gateways are told of deployments, in Redis and in the twin."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from operators import published
from penstock.api import types, wire
from penstock.api.crds import modeldeployment
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, errors, redis


def resource(name: str = "tiny", namespace: str = "models", **spec: Any) -> modeldeployment.ModelDeployment:
    """A ModelDeployment."""
    return modeldeployment.ModelDeployment.read(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name, "namespace": namespace, "generation": 3, "uid": "u"},
            "spec": {"model": {"name": "tiny"}, "engine": {"kind": "sim"}, **spec},
        }
    )


class Place:
    """Where it is told, and what stands there."""

    def __init__(self, target: published.Published, link: redis.RedisLink | None) -> None:
        self.target, self._link = target, link

    async def told(self, namespace: str = "models") -> dict[str, types.ModelDeployment]:
        """By name."""
        if isinstance(self.target, published.InMemory):
            return {name: each for (space, name), each in self.target.told.items() if space == namespace}
        assert self._link is not None
        rows = await self._link.client.hgetall(wire.Keys(namespace).deployments)
        return {key.decode(): types.ModelDeployment.model_validate_json(value) for key, value in rows.items()}


@pytest_asyncio.fixture(params=["redis", "memory"])
async def place(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> AsyncIterator[Place]:
    """Empty, of either kind."""
    if request.param == "memory":
        yield Place(published.InMemory(), None)
        return
    server = embedded_redis.EmbeddedRedis(tmp_path, clocks.SystemClock())
    await server.start()
    link = redis.RedisLink(server.url, clocks.SystemClock())
    await link.start()
    yield Place(published.InRedis(link.client, lambda: "a"), link)
    await link.stop()
    await server.stop()


async def test_a_deployment_is_told_in_its_namespace(place: Place) -> None:
    """Model, engine, workers of each role, routing profile and targets are there, and only in this namespace's fleet."""
    roles = [{"name": "prefill", "replicas": 1}, {"name": "decode", "replicas": 3}]
    slo = [{"name": "chat", "ttft": "500ms", "itl": "50ms"}]
    given = resource(replicas=2, roles=roles, routing={"profile": "least-request"}, sloClasses=slo)
    await place.target.put(given)
    found = (await place.told())["tiny"]
    assert [(pool.role, pool.replicas) for pool in found.pools] == [("prefill", 2), ("decode", 6)]
    assert (found.model, found.policy, found.engine.kind, found.generation) == ("tiny", "least-request", "sim", 3)
    assert (found.slo_classes[0].ttft_ms, found.slo_classes[0].itl_ms, found.slo_classes[0].e2e_ms) == (500, 50, None)
    assert await place.told("default") == {}


async def test_the_last_word_counts(place: Place) -> None:
    """A change replaces, a removal removes, each as often as it is said."""
    await place.target.put(resource(replicas=1))
    await place.target.put(resource(replicas=4))
    assert (await place.told())["tiny"].pools[0].replicas == 4
    for _ in range(2):
        await place.target.remove("models", "tiny")
    assert await place.told() == {}


async def test_what_was_told_is_remembered(place: Place) -> None:
    """By namespace and name, until it is taken back: another operator learns of those that went while none ran."""
    for name, namespace in (("tiny", "models"), ("tiny", "others"), ("big", "others")):
        await place.target.put(resource(name, namespace))
    assert await place.target.names() == {("models", "tiny"), ("others", "tiny"), ("others", "big")}
    await place.target.remove("others", "tiny")
    assert await place.target.names() == {("models", "tiny"), ("others", "big")}


async def test_others_operators_are_let_be(tmp_path: pathlib.Path) -> None:
    """Those of another cluster that use the same Redis have told of what this one does not know."""
    server = embedded_redis.EmbeddedRedis(tmp_path, clocks.SystemClock())
    await server.start()
    link = redis.RedisLink(server.url, clocks.SystemClock())
    await link.start()
    await published.InRedis(link.client, lambda: "a").put(resource())
    assert await published.InRedis(link.client, lambda: "b").names() == set()
    await link.stop()
    await server.stop()


async def test_without_redis_it_is_worth_another_try(tmp_path: pathlib.Path) -> None:
    """A Redis that is away raises a retryable error."""
    server = embedded_redis.EmbeddedRedis(tmp_path, clocks.SystemClock())
    await server.start()
    link = redis.RedisLink(server.url, clocks.SystemClock())
    await server.stop()
    with pytest.raises(errors.RetryableError):
        await published.InRedis(link.client, lambda: "a").put(resource())
    with pytest.raises(errors.RetryableError):
        await published.InRedis(link.client, lambda: "a").names()
    await link.stop()

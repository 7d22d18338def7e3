"""A control plane, a proxy before it, a Redis and an operator process: what tests of faults stand on."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Callable

from operators import sight
from penstock.api import types, wire
from penstock.api.crds import schema
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, registry
from penstock.runtime import redis as redis_link
from tests.cluster import api, control_plane, faults
from tests.support import custom_resources
from tests.support.operator_process import OperatorProcess, until

WATCHED = "default"


class Bench:
    """A control plane of the test's own, a proxy, a Redis and an operator process behind the proxy."""

    def __init__(self, folder: pathlib.Path, plane: control_plane.ControlPlane) -> None:
        self.plane, self.server = plane, api.Api(plane.access)
        self.proxy = faults.Proxy(plane.access)
        self.redis = embedded_redis.EmbeddedRedis(folder, clocks.SystemClock())
        self.folder = folder
        self.operator: OperatorProcess
        self.link: redis_link.RedisLink

    async def start(self) -> None:
        """All of it."""
        for resource in custom_resources.TYPES.values():
            assert self.server.apply(schema.definition(resource)).is_success
        await self.proxy.start()
        await self.redis.start()
        self.link = redis_link.RedisLink(self.redis.url, clocks.SystemClock())
        await self.link.start()
        self.registry = registry.RedisRegistry(self.link.client, wire.Keys(WATCHED))
        settings = {"NAMESPACES": WATCHED, "LEASE__NAMESPACE": WATCHED, "RESYNC_S": "60"}
        self.operator = OperatorProcess(self.folder, self.proxy.access, self.redis.url, "operator", **settings)
        self.operator.start()
        await self.until(lambda: self.operator.leads)

    async def stop(self) -> None:
        """All of it."""
        await asyncio.to_thread(self.operator.kill)
        await self.proxy.stop()
        await self.link.stop()
        await self.redis.stop()
        self.server.close()

    async def until(self, check: Callable[[], object], deadline_s: float = 30.0, what: str = "") -> float:
        """Waits with the proxy running."""
        return await asyncio.to_thread(until, check, deadline_s, what)

    def deploy(self, name: str, replicas: int) -> None:
        """A deployment of simulated workers."""
        document = {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": {"model": {"name": "tiny"}, "engine": {"kind": "sim"}, "replicas": replicas},
        }
        assert self.server.create(document, WATCHED).is_success

    def scale(self, name: str, replicas: int) -> None:
        """As `kubectl scale`."""
        path = f"{sight.DEPLOYMENT.path(WATCHED, name)}/scale"
        assert self.server.merge(path, {"spec": {"replicas": replicas}}).is_success

    def pods(self) -> list[str]:
        """Names of the Pods."""
        return sorted(each["metadata"]["name"] for each in self.server.get(sight.POD.path(WATCHED)).json()["items"])

    async def serve(self, *names: str) -> None:
        """Pods that run, and whose agents have registered."""
        for name in names:
            change = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
            assert self.server.merge(f"{sight.POD.path(WATCHED, name)}/status", change).is_success
            record = types.WorkerRecord(
                id=name,
                incarnation=await self.registry.next_incarnation(),
                deployment=name.rpartition("-")[0],
                model="tiny",
                endpoint=types.Endpoint(host="10.0.0.1", port=8000),
                state=types.WorkerState.READY,
                engine="sim",
            )
            await self.registry.register(record, 600.0)

    async def states(self) -> dict[str, str]:
        """What the registry says."""
        return {each.record.id: str(each.record.state) for each in await self.registry.snapshot()}

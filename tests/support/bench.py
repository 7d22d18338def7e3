"""A control plane, a proxy before it, a Redis and an operator process: what tests of faults stand on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pathlib
from collections.abc import AsyncIterator, Callable

from operators import sight
from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, registry
from penstock.runtime import redis as redis_link
from tests.cluster import api, control_plane, faults
from tests.support.operator_process import OperatorProcess, until

_NUMBERS = itertools.count(1)


class Bench:
    """A namespace, a proxy, a Redis, and an operator process that has only these."""

    def __init__(self, folder: pathlib.Path, plane: control_plane.ControlPlane, namespace: str) -> None:
        self.namespace = namespace
        self.plane, self.server = plane, api.Api(plane.access)
        self.proxy = faults.Proxy(plane.access)
        self.redis = embedded_redis.EmbeddedRedis(folder, clocks.SystemClock())
        self.folder = folder
        self.operator: OperatorProcess
        self.link: redis_link.RedisLink
        self._started = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """All of it; what has started is stopped by `stop`, also where the rest fails."""
        ends = self._started
        ends.callback(self.server.close)
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        assert self.server.create(document, "").is_success
        await self.redis.start()
        ends.push_async_callback(self.redis.stop)
        self.link = redis_link.RedisLink(self.redis.url, clocks.SystemClock())
        await self.link.start()
        ends.push_async_callback(self.link.stop)
        self.registry = registry.RedisRegistry(self.link.client, wire.Keys(self.namespace))
        await self.proxy.start()
        ends.push_async_callback(self.proxy.stop)
        settings = {"NAMESPACES": self.namespace, "LEASE__NAMESPACE": self.namespace, "RESYNC_S": "60"}
        self.operator = OperatorProcess(self.folder, self.proxy.access, self.redis.url, "operator", **settings)
        self.operator.start()
        ends.push_async_callback(asyncio.to_thread, self.operator.kill)
        await self.until(lambda: self.operator.leads)

    async def stop(self) -> None:
        """All of it."""
        await self._started.aclose()

    async def start_server(self) -> None:
        """The API server, after its end; it is ready."""
        # Not in a thread of the loop's: it would end with the loop, and the server with it.
        self.plane.respawn("kube-apiserver")
        await asyncio.to_thread(self.plane.until_ready, "kube-apiserver")

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
        assert self.server.create(document, self.namespace).is_success

    def scale(self, name: str, replicas: int) -> None:
        """As `kubectl scale`."""
        path = f"{sight.DEPLOYMENT.path(self.namespace, name)}/scale"
        assert self.server.merge(path, {"spec": {"replicas": replicas}}).is_success

    def pods(self) -> list[str]:
        """Names of the Pods."""
        return sorted(
            each["metadata"]["name"] for each in self.server.get(sight.POD.path(self.namespace)).json()["items"]
        )

    async def serve(self, *names: str) -> None:
        """Pods that run, and whose agents have registered."""
        for name in names:
            change = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
            assert self.server.merge(f"{sight.POD.path(self.namespace, name)}/status", change).is_success
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

    async def told(self) -> set[str]:
        """Names of the deployments that gateways know."""
        return {each.decode() for each in await self.link.client.hkeys(wire.Keys(self.namespace).deployments)}

    async def states(self) -> dict[str, str]:
        """What the registry says."""
        return {each.record.id: str(each.record.state) for each in await self.registry.snapshot()}


@contextlib.asynccontextmanager
async def running(folder: pathlib.Path, plane: control_plane.ControlPlane) -> AsyncIterator[Bench]:
    """A bench that has started, in a namespace of its own; afterwards the control plane is whole again."""
    found = Bench(folder, plane, f"penstock-bench-{os.getpid()}-{next(_NUMBERS)}")
    try:
        await found.start()
        yield found
    finally:
        plane.mend()
        await found.stop()

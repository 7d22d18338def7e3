"""A namespace on a real API server with an operator's parts, and hands that do what a kubelet and workers do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from operators import deployments, fleets, kube, pods, sight
from penstock.api import types
from penstock.runtime import clock as clocks
from penstock.runtime import registry
from tests.cluster import api

_DEADLINE_S = 20.0


class Stage:
    """A namespace with an operator's parts, and hands that do what a kubelet and workers do."""

    def __init__(self, server: api.Api, client: kube.KubeClient, namespace: str) -> None:
        self.server, self.client, self.namespace = server, client, namespace
        self.clock = clocks.ManualClock(1_800_000_000.0)
        self.registry = registry.MemoryRegistry(self.clock)
        self.host = pods.WorkerHost("penstock:test", "redis", "url", "vllm:test")
        # Kinds that the cluster has, of those that one may lack.
        self.optional: tuple[sight.Kind, ...] = ()
        self.reconciler = self.another()

    def another(
        self, client: kube.KubeClient | None = None, verdicts: deployments.Verdicts | None = None
    ) -> deployments.DeploymentReconciler:
        """A reconciler that knows nothing of the one before."""
        calls = client or self.client
        return deployments.DeploymentReconciler(
            calls, sight.Live(calls, self.optional), fleets.Asked(self.registry), self.clock, self.host, verdicts
        )

    def create(self, replicas: int = 2, **spec: Any) -> None:
        """A deployment `m` of simulated workers."""
        document = {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "m"},
            "spec": {"model": {"name": "tiny"}, "engine": {"kind": "sim"}, "replicas": replicas, **spec},
        }
        made = self.server.create(document, self.namespace)
        assert made.is_success, made.text

    def scale(self, replicas: int) -> None:
        """As `kubectl scale`."""
        path = sight.DEPLOYMENT.path(self.namespace, "m")
        assert self.server.merge(f"{path}/scale", {"spec": {"replicas": replicas}}).is_success

    async def once(self) -> bool:
        """One pass; whether all is as wanted."""
        return (await self.reconciler.reconcile(self.namespace, "m")).settled

    def pods(self) -> dict[str, Any]:
        """Pods by name."""
        found = self.server.get(sight.POD.path(self.namespace)).json()["items"]
        return {each["metadata"]["name"]: each for each in found}

    def deployment(self) -> Any:
        """The deployment as it is."""
        return self.server.get(sight.DEPLOYMENT.path(self.namespace, "m")).json()

    def ready(self) -> Any:
        """Its Ready condition."""
        return self.condition("Ready")

    def condition(self, kind: str) -> Any:
        """A condition of it."""
        return next(each for each in self.deployment()["status"]["conditions"] if each["type"] == kind)

    def pod_says(self, name: str, phase: str, *, ready: bool = False, **status: Any) -> None:
        """What a kubelet writes."""
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        change = {"status": {"phase": phase, "conditions": conditions, **status}}
        said = self.server.merge(f"{sight.POD.path(self.namespace, name)}/status", change)
        assert said.is_success, said.text

    async def register(self, name: str) -> int:
        """What a worker writes when its engine answers; its incarnation."""
        incarnation = await self.registry.next_incarnation()
        record = types.WorkerRecord(
            id=name,
            incarnation=incarnation,
            deployment="m",
            model="tiny",
            endpoint=types.Endpoint(host="10.0.0.1", port=8000),
            state=types.WorkerState.READY,
            engine="sim",
        )
        await self.registry.register(record, 1e6)
        return incarnation

    async def serve(self, name: str) -> int:
        """A Pod that runs, with its worker registered."""
        self.pod_says(name, "Running", ready=True)
        return await self.register(name)

    def events(self) -> list[str]:
        """Reasons of the deployment's events, with how often each was said."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        found = self.server.get(path).json()["items"]
        return sorted(each["reason"] for each in found if each["regarding"]["name"] == "m")

    def notes(self, reason: str) -> list[str]:
        """What the deployment's events of this reason say."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        found = self.server.get(path).json()["items"]
        return [each["note"] for each in found if each["regarding"]["name"] == "m" and each["reason"] == reason]

    async def states(self) -> dict[str, str]:
        """What the registry says of each worker."""
        return {each.record.id: str(each.record.state) for each in await self.registry.snapshot()}


async def until(check: Callable[[], object]) -> None:
    """Waits until `check` is true."""
    async with asyncio.timeout(_DEADLINE_S):
        while not check():
            await asyncio.sleep(0.02)

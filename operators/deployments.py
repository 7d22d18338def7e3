"""Brings a ModelDeployment's worker Pods to what is wanted: look, decide, act, say."""

from __future__ import annotations

import dataclasses
from typing import Any

import pydantic

from operators import events, kube, pods
from operators.policy import status, workers
from penstock.api import types
from penstock.api.crds import base, modeldeployment
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, registry

Object = dict[str, Any]
DEPLOYMENTS = f"/apis/{base.API_VERSION}"


def deployment_path(namespace: str, name: str = "") -> str:
    """Path of one ModelDeployment, or of all of a namespace."""
    return f"{DEPLOYMENTS}/namespaces/{namespace}/modeldeployments{name and '/' + name}"


def pod_path(namespace: str, name: str = "") -> str:
    """Path of one Pod, or of all of a namespace."""
    return f"/api/v1/namespaces/{namespace}/pods{name and '/' + name}"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What was seen at one moment. `found` are the Pods by name, as they are deleted only if unchanged since."""

    deployment: modeldeployment.ModelDeployment
    observed: workers.Observed
    found: dict[str, Object]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why a worker cannot be made: no quota, no rights, an engine that is not hosted."""

    reason: str
    message: str


class DeploymentReconciler:
    """One pass at a time over one deployment; it keeps nothing between passes."""

    def __init__(
        self, client: kube.KubeClient, store: registry.Registry, clock: clocks.Clock, host: pods.WorkerHost
    ) -> None:
        self._kube, self._registry, self._clock, self._host = client, store, clock, host
        self._log = logs.get("operator")

    async def reconcile(self, namespace: str, name: str) -> bool:
        """One pass; whether all is as wanted. A deployment that is gone or being deleted is: Kubernetes takes its Pods.

        Raises `RetryableError` where the pass has to be made again, `TerminalError` where that would not help.
        """
        snapshot = await self._look(namespace, name)
        if snapshot is None:
            return True
        now_s = self._clock.now_s()
        plan = workers.reconcile(workers.Desired.of(snapshot.deployment), snapshot.observed, now_s)
        problem = await self._act(snapshot, plan, now_s)
        # The status is what was seen before the commands: what they did is seen in the next pass, which they cause.
        await self._say(snapshot, plan.held, problem, now_s)
        if problem is not None:
            raise errors.TerminalError(problem.message)
        wanted = sum(pool.wanted for pool in workers.Desired.of(snapshot.deployment).pools)
        seen = snapshot.observed.workers
        return not plan.commands and not plan.held and len(seen) == wanted and all(worker.ready for worker in seen)

    async def _look(self, namespace: str, name: str) -> Snapshot | None:
        document = await self._kube.get(deployment_path(namespace, name))
        if document is None or "deletionTimestamp" in document["metadata"]:
            return None
        try:
            deployment = modeldeployment.ModelDeployment.read(document)
        except pydantic.ValidationError as exc:
            raise errors.TerminalError(f"{namespace}/{name}: {exc.error_count()} fields are not understood") from exc
        registered = await self._registered(name)
        found, _ = await self._kube.list(pod_path(namespace), f"{pods.DEPLOYMENT_LABEL}={name}")
        own = [each for each in found if _owner(each) == deployment.metadata.uid]
        seen = tuple(
            pods.observed(each, (registered or {}).get(each["metadata"]["name"]), registered is not None)
            for each in own
        )
        observed = workers.Observed(seen, registry=registered is not None)
        return Snapshot(deployment, observed, {each["metadata"]["name"]: each for each in own})

    async def _registered(self, deployment: str) -> dict[str, types.WorkerState] | None:
        """States of a deployment's workers in the registry; None while it cannot be asked."""
        try:
            entries = await self._registry.snapshot()
        except errors.RetryableError as exc:
            self._log.warning("registry_unknown", deployment=deployment, reason=str(exc))
            return None
        return {each.record.id: each.record.state for each in entries if each.record.deployment == deployment}

    async def _act(self, snapshot: Snapshot, plan: workers.Plan, now_s: float) -> Problem | None:
        """Carries the commands out, each safe to repeat. A worker that cannot be made at all is returned, for the status."""
        namespace = snapshot.deployment.metadata.namespace
        for command in plan.commands:
            match command:
                case workers.Create():
                    try:
                        document = pods.pod(snapshot.deployment, command, self._host)
                        await self._kube.create(pod_path(namespace), document)
                    except pods.UnsupportedError as exc:
                        return Problem("Unsupported", str(exc))
                    except errors.TerminalError as exc:
                        return Problem("CreationRefused", str(exc))
                case workers.Drain():
                    await self._drain(snapshot, command.worker, now_s)
                case workers.Delete():
                    meta = snapshot.found[command.worker]["metadata"]
                    path = pod_path(namespace, command.worker)
                    await self._kube.delete(path, meta["uid"], meta["resourceVersion"])
            await self._tell(events.of_command(snapshot.deployment, command, now_s))
            self._log.info("worker_command", command=type(command).__name__, **dataclasses.asdict(command))
        return None

    async def _drain(self, snapshot: Snapshot, worker: str, now_s: float) -> None:
        """First on the Pod, so that a drain whose second half was lost is told again."""
        meta = snapshot.found[worker]["metadata"]
        if pods.DRAIN_ANNOTATION not in meta.get("annotations", {}):
            change = {
                "metadata": {
                    "resourceVersion": meta["resourceVersion"],
                    "annotations": {pods.DRAIN_ANNOTATION: pods.timestamp(now_s)},
                }
            }
            await self._kube.merge(pod_path(meta["namespace"], worker), change)
        await self._registry.set_state(worker, None, types.WorkerState.DRAINING)

    async def _say(self, snapshot: Snapshot, held: str, problem: Problem | None, now_s: float) -> None:
        """Writes the status where it differs."""
        before = snapshot.deployment
        wanted = status.of_deployment(before, snapshot.observed, held, now_s)
        if problem is not None:
            said = (before.status.conditions, status.READY, False, problem.reason, problem.message)
            condition = status.condition(*said, before.metadata.generation, now_s)
            wanted = wanted.model_copy(update={"conditions": (condition,)})
        if wanted == before.status:
            return
        document = {
            "apiVersion": base.API_VERSION,
            "kind": "ModelDeployment",
            "metadata": {"name": before.metadata.name, "namespace": before.metadata.namespace},
            "status": wanted.model_dump(by_alias=True, exclude_none=True, mode="json"),
        }
        await self._kube.apply(f"{deployment_path(before.metadata.namespace, before.metadata.name)}/status", document)
        become = events.of_status(before, wanted, now_s)
        if become is not None:
            await self._tell(become)

    async def _tell(self, event: Object) -> None:
        """Events are for people: one that is lost costs nothing else."""
        namespace = event["metadata"]["namespace"]
        try:
            await self._kube.create(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", event)
        except errors.PenstockError as exc:
            self._log.warning("event_lost", reason=event["reason"], because=str(exc))


def _owner(found: Object) -> str:
    """Uid of the controller of an object."""
    return next((each["uid"] for each in found["metadata"].get("ownerReferences", ()) if each.get("controller")), "")

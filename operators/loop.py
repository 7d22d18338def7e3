"""Watches the custom resources and their Pods, and makes a pass over what changed; over everything when it lists anew.

A pass looks at what is there, so it does not matter which change caused it, whether one was missed or came twice. A pass
that failed is made again, later each time; one whose deployment is not settled is made again soon, because the registry
tells the operator nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from operators import deployments, kube, pods, unbuilt
from penstock.api.crds import base, modeldeployment
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, tasks

# A kind and the namespace and name of an object; the namespace is empty for kinds of the cluster.
Key = tuple[type[base.Resource], str, str]

RESYNC_S = 300
SETTLE_S = 1.0
_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 30.0


class Operator:
    """Passes run one after the other: two of one object never overlap."""

    def __init__(
        self, client: kube.KubeClient, reconciler: deployments.DeploymentReconciler, clock: clocks.Clock
    ) -> None:
        self._kube, self._reconciler, self._clock = client, reconciler, clock
        self._log = logs.get("operator")
        self._due_s: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        watched: list[tuple[str, str, Callable[[kube.Object], Key | None]]] = [
            (_all(modeldeployment.ModelDeployment), "", _key(modeldeployment.ModelDeployment)),
            ("/api/v1/pods", pods.DEPLOYMENT_LABEL, _deployment_of),
            *((_all(kind), "", _key(kind)) for kind in unbuilt.KINDS),
        ]
        started = [asyncio.create_task(self._follow(*each), name=f"watch {each[0]}") for each in watched]
        try:
            await self._work()
        finally:
            await tasks.cancel(started)

    async def _follow(self, path: str, labels: str, key_of: Callable[[kube.Object], Key | None]) -> None:
        """Lists, then watches; lists again when the watch ends or its history is gone."""
        wait_s = _BACKOFF_FIRST_S
        while True:
            try:
                found, version = await self._kube.list(path, labels)
                for each in found:
                    self._mark(key_of(each))
                wait_s = _BACKOFF_FIRST_S
                async for event in self._kube.watch(path, version, labels, RESYNC_S):
                    self._mark(key_of(event.object))
            except kube.GoneError:
                continue
            except errors.PenstockError as exc:
                self._log.warning("watch_lost", path=path, reason=str(exc), again_s=wait_s)
                await self._clock.sleep(wait_s)
                wait_s = min(_BACKOFF_MAX_S, wait_s * 2)

    def _mark(self, key: Key | None, after_s: float = 0.0) -> None:
        """A pass over this object is due then, or sooner where it already was."""
        if key is None:
            return
        due_s = self._clock.monotonic_s() + after_s
        self._due_s[key] = min(due_s, self._due_s.get(key, due_s))
        self._wake.set()

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            now_s = self._clock.monotonic_s()
            for key in [key for key, due_s in self._due_s.items() if due_s <= now_s]:
                del self._due_s[key]
                await self._pass(key)
            if self._due_s:
                left_s = min(self._due_s.values()) - self._clock.monotonic_s()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, left_s)):
                        await self._wake.wait()
            else:
                await self._wake.wait()

    async def _pass(self, key: Key) -> None:
        """One pass; what it raises decides when the next one is."""
        kind, namespace, name = key
        try:
            if kind is modeldeployment.ModelDeployment:
                settled = await self._reconciler.reconcile(namespace, name)
            else:
                await unbuilt.reconcile(self._kube, self._clock, kind, namespace, name)
                settled = True
        except errors.PenstockError as exc:
            failures = self._failures.get(key, 0) + 1
            self._failures[key] = failures
            wait_s = min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 10))
            wait_s = wait_s if exc.retryable else _BACKOFF_MAX_S
            self._log.warning("pass_failed", kind=kind.__name__, object=name, reason=str(exc), again_s=wait_s)
            self._mark(key, wait_s)
            return
        self._failures.pop(key, None)
        if not settled:
            self._mark(key, SETTLE_S)


def _all(kind: type[base.Resource]) -> str:
    """Path of all objects of a kind, in every namespace."""
    return f"/apis/{base.API_VERSION}/{kind.KIND.plural}"


def _key(kind: type[base.Resource]) -> Callable[[kube.Object], Key | None]:
    return lambda found: (kind, found["metadata"].get("namespace", ""), found["metadata"]["name"])


def _deployment_of(found: kube.Object) -> Key | None:
    """The deployment that a Pod belongs to."""
    name = found["metadata"].get("labels", {}).get(pods.DEPLOYMENT_LABEL)
    return (modeldeployment.ModelDeployment, found["metadata"]["namespace"], name) if name else None

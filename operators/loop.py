"""Makes passes over what has changed, and over everything once in a while, as long as this operator leads.

A pass looks at what is there, so it does not matter which change caused it, whether one was missed or came twice. A pass
that failed is made again, later each time; one whose object has a deadline is made again then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

from operators import deployments, kube, metrics, profiles, queue, unbuilt
from penstock.api.crds import acceleratorprofile, base, modeldeployment
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, tasks

# A kind and the namespace and name of an object; the namespace is empty for kinds of the cluster.
Key = tuple[type[base.Resource], str, str]

_BACKOFF_FIRST_S = 0.5


class Operator:
    """Passes over several objects at a time, never two over one."""

    def __init__(
        self,
        client: kube.KubeClient,
        reconciler: deployments.DeploymentReconciler,
        clock: clocks.Clock,
        counted: metrics.Metrics,
        everything: Callable[[], Sequence[Key]],
        *,
        workers: int = 8,
        resync_s: float = 300.0,
        backoff_max_s: float = 30.0,
        document: Callable[[type[base.Resource], str, str], kube.Object | None] | None = None,
        counted_profiles: profiles.Profiles | None = None,
        tidy: Callable[[Collection[Key]], Awaitable[Collection[Key]]] | None = None,
    ) -> None:
        """`everything` gives the keys of all objects that are known, `document` the copy of one that nothing acts on; `tidy`
        is given those keys now and then, and gives those of objects that are gone and of which something is left.
        """
        self._profiles, self._tidy = counted_profiles, tidy
        self._kube, self._reconciler, self._clock, self._metrics = client, reconciler, clock, counted
        self._everything, self._workers, self._resync_s, self._document = everything, workers, resync_s, document
        self._backoff_max_s = backoff_max_s
        self._log = logs.get("operator")
        self.queue: queue.WorkQueue[Key] = queue.WorkQueue(clock)
        self._failures: dict[Key, int] = {}
        self._left: set[Key] = set()
        self._running: list[asyncio.Task[None]] = []
        self._began_s = 0.0

    def mark(self, key: Key) -> None:
        """A pass over this object is due."""
        self.queue.mark(key)

    async def lead(self) -> None:
        """Begins to act; everything is looked at once."""
        if not self._running:
            self._running = [asyncio.create_task(self._resync(), name="resync")]
            self._running += [asyncio.create_task(self._work(), name=f"pass {n}") for n in range(self._workers)]
            if self._tidy is not None:
                self._running.append(asyncio.create_task(self._keep_tidy(self._tidy), name="tidy"))

    async def follow(self) -> None:
        """Stops acting, in the middle of whatever it does: every command is safe to interrupt."""
        running, self._running = self._running, []
        await tasks.cancel(running)

    async def _resync(self) -> None:
        while True:
            keys = self._everything()
            self._began_s = self._clock.monotonic_s()
            self._left = set(keys)
            for key in keys:
                self.queue.mark(key)
            await self._clock.sleep(self._resync_s)

    async def _keep_tidy(self, tidy: Callable[[Collection[Key]], Awaitable[Collection[Key]]]) -> None:
        while True:
            wait_s = self._resync_s
            try:
                for key in await tidy(frozenset(self._everything())):
                    self.queue.mark(key)
            except errors.PenstockError as exc:
                wait_s = self._backoff_max_s
                self._log.warning("not_tidied", reason=str(exc), again_s=wait_s)
            except Exception:
                self._log.exception("not_tidied")
            await self._clock.sleep(wait_s)

    async def _work(self) -> None:
        while True:
            key, waited_s = await self.queue.take()
            self._metrics.wait_s.observe(waited_s)
            try:
                await self._pass(key)
            finally:
                self.queue.done(key)
                self._synced(key)

    def _synced(self, key: Key) -> None:
        """Notes when the last object of a pass over everything was done."""
        if key in self._left:
            self._left.discard(key)
            if not self._left:
                self._metrics.resync_s.set(self._clock.monotonic_s() - self._began_s)

    async def _pass(self, key: Key) -> None:
        """One pass; what it raises decides when the next one is."""
        kind, namespace, name = key
        began_s = self._clock.monotonic_s()
        result = "done"
        try:
            again_s = await self._reconcile(key)
            self._failures.pop(key, None)
            if again_s is not None:
                self.queue.mark(key, again_s)
        except Exception as exc:
            # Whatever one object raises, the others go on.
            # A write that came in a gap between two renewals is made soon after it; who leads no more is stopped anyway.
            fenced = isinstance(exc, errors.FencedError)
            retryable = fenced or (isinstance(exc, errors.PenstockError) and exc.retryable)
            result = "retry" if retryable else "failed"
            failures = self._failures.get(key, 0) + 1
            self._failures[key] = failures
            wait_s = min(self._backoff_max_s, _BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 10))
            wait_s = wait_s if retryable else self._backoff_max_s
            said = {"kind": kind.__name__, "object": name, "namespace": namespace, "again_s": wait_s}
            if isinstance(exc, errors.PenstockError):
                self._log.warning("pass_failed", reason=str(exc), **said)
            else:
                self._log.exception("pass_failed", **said)
            self.queue.mark(key, wait_s)
        finally:
            self._metrics.pass_s.labels(kind.__name__).observe(self._clock.monotonic_s() - began_s)
            self._metrics.passes.labels(kind.__name__, result).inc()

    async def _reconcile(self, key: Key) -> float | None:
        kind, namespace, name = key
        if kind is modeldeployment.ModelDeployment:
            return (await self._reconciler.reconcile(namespace, name)).again_s
        if kind is acceleratorprofile.AcceleratorProfile:
            return await self._profiles.reconcile(name) if self._profiles is not None else None
        known = self._document(kind, namespace, name) if self._document else None
        await unbuilt.reconcile(self._kube, self._clock, kind, namespace, name, known)
        return None

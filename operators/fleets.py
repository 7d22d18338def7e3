"""What the registry says of the workers of each namespace's fleet, kept by following its log.

A fleet is a Kubernetes namespace: its gateways, workers and keys in Redis bear the same name. A namespace is followed from
the first look on, for as long as it has model deployments.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from penstock.api import types
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, registry
from penstock.runtime.registry import watch

Records = Mapping[str, types.WorkerRecord]

# A look that is no older than this is a new one: many passes at a time share it.
FRESH_S = 0.5


class Fleets(Protocol):
    """What the operator asks of the registries."""

    async def records(self, namespace: str) -> Records | None:
        """Workers by id as they are known; None while the registry cannot be asked."""

    async def again(self, namespace: str) -> Records | None:
        """The same, looked up now."""

    def registry(self, namespace: str) -> registry.Registry:
        """The registry itself, to change a state in it."""

    @property
    def known(self) -> bool:
        """Whether every registry that was asked is in step."""


class Asked:
    """Asks one registry each time: for tests and single namespaces."""

    def __init__(self, store: registry.Registry) -> None:
        self._store = store
        self.known = True

    async def records(self, namespace: str) -> Records | None:
        """See `Fleets`."""
        return await self.again(namespace)

    async def again(self, namespace: str) -> Records | None:
        """See `Fleets`."""
        try:
            found = {each.record.id: each.record for each in await self._store.snapshot()}
        except errors.RetryableError:
            self.known = False
            return None
        self.known = True
        return found

    def registry(self, namespace: str) -> registry.Registry:
        """See `Fleets`."""
        return self._store


class Followed:
    """Follows the registry of each namespace that was asked for; `on_change(namespace, worker ids)` hears of changes."""

    def __init__(
        self,
        make: Callable[[str], registry.Registry],
        link: watch.LinkHealth | None,
        clock: clocks.Clock,
        on_change: Callable[[str, set[str]], None],
    ) -> None:
        self._make, self._link, self._clock, self._on_change = make, link, clock, on_change
        self._log = logs.get("operator")
        self._stores: dict[str, registry.Registry] = {}
        self._watchers: dict[str, watch.RegistryWatcher] = {}
        self._before: dict[str, dict[str, types.WorkerRecord]] = {}
        self._looks: dict[str, tuple[float, Records]] = {}

    @property
    def known(self) -> bool:
        """See `Fleets`."""
        return all(each.synced for each in self._watchers.values())

    async def start(self) -> None:
        """Nothing is followed before it is asked for."""

    async def stop(self) -> None:
        """Stops following."""
        for each in self._watchers.values():
            await each.stop()
        self._watchers.clear()

    async def keep(self, namespaces: Collection[str]) -> None:
        """Follows no other namespace any more until it is asked for again: each takes a connection."""
        for namespace in set(self._watchers) - set(namespaces):
            watcher = self._watchers.pop(namespace)
            for table in (self._stores, self._before, self._looks):
                table.pop(namespace, None)
            await watcher.stop()

    async def records(self, namespace: str) -> Records | None:
        """See `Fleets`."""
        watcher = self._watchers.get(namespace)
        if watcher is None:
            watcher = registry.RegistryWatcher(
                self.registry(namespace), self._link, self._clock, lambda all_of, _: self._changed(namespace, all_of)
            )
            self._watchers[namespace] = watcher
            await watcher.start(2.0)
        return watcher.workers if watcher.synced else None

    async def again(self, namespace: str) -> Records | None:
        """See `Fleets`. What is missing after a loss of contact counts as there until its grace is over."""
        kept = await self.records(namespace)
        if kept is None:
            return None
        now_s = self._clock.monotonic_s()
        at_s, found = self._looks.get(namespace, (-FRESH_S, {}))
        if now_s - at_s >= FRESH_S or at_s < 0:
            try:
                entries = await self.registry(namespace).snapshot()
            except errors.PenstockError as exc:
                self._log.warning("registry_unknown", namespace=namespace, reason=str(exc))
                return None
            found = {each.record.id: each.record for each in entries}
            self._looks[namespace] = (now_s, found)
        return {**kept, **found}

    def registry(self, namespace: str) -> registry.Registry:
        """See `Fleets`."""
        if namespace not in self._stores:
            self._stores[namespace] = self._make(namespace)
        return self._stores[namespace]

    def _changed(self, namespace: str, now: dict[str, types.WorkerRecord]) -> None:
        before = self._before.get(namespace, {})
        names = {name for name in {*before, *now} if before.get(name) != now.get(name)}
        self._before[namespace] = now
        # A look from before the change would hide it.
        self._looks.pop(namespace, None)
        self._on_change(namespace, names)

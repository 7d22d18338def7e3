"""Copies of the API server's collections, kept by list and watch, so that a pass over an object asks the server nothing.

A copy is late by what a watch is late, and it knows this operator's own writes at once (`take`). Whatever must not be done
on a late sight is looked at again at the server before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from operators import kube
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, tasks

# Namespace (empty for kinds of the cluster) and name.
Name = tuple[str, str]
Keys = Callable[[kube.Object], Iterable[Name]]

_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 15.0
# How soon a kind is found that is installed later.
_OPTIONAL_S = 60.0
# So many names are remembered after their objects are gone.
_GONE = 10_000


def name_of(found: kube.Object) -> Name:
    """Namespace and name of an object."""
    meta = found["metadata"]
    return (meta.get("namespace", ""), meta["name"])


def owner_uid(found: kube.Object) -> str:
    """Uid of the controller of an object; empty where it has none."""
    return next((each["uid"] for each in found["metadata"].get("ownerReferences", ()) if each.get("controller")), "")


class Store:
    """Objects of one collection by name, and by the keys that `index` gives them. Pure."""

    def __init__(
        self, index: Keys = lambda found: (), slim: Callable[[kube.Object], kube.Object] | None = None
    ) -> None:
        """`slim` drops what nobody reads, before an object is kept."""
        self._index, self._slim = index, slim or without_managed_fields
        self._objects: dict[Name, kube.Object] = {}
        self._by_key: dict[Name, dict[Name, None]] = {}
        # At which version objects were gone: answers to what was asked before may come later than the watch tells.
        self._gone: dict[Name, int] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[kube.Object]:
        return iter(self._objects.values())

    def get(self, namespace: str, name: str) -> kube.Object | None:
        """The object of this name."""
        return self._objects.get((namespace, name))

    def of(self, namespace: str, key: str) -> list[kube.Object]:
        """The objects with this key."""
        return [self._objects[name] for name in self._by_key.get((namespace, key), ())]

    def put(self, found: kube.Object) -> bool:
        """Keeps an object; False where a newer sight of it is there already, or it was seen to be gone since."""
        name = name_of(found)
        before = self._objects.get(name)
        if before is not None and _version(before) > _version(found):
            return False
        if self._gone.get(name, -1) >= _version(found):
            return False
        self._drop(name)
        kept = self._slim(found)
        self._objects[name] = kept
        for key in self._index(kept):
            self._by_key.setdefault(key, {})[name] = None
        return True

    def remove(self, found: kube.Object) -> bool:
        """Forgets an object; False where a newer one of the name is there."""
        name = name_of(found)
        before = self._objects.get(name)
        if before is not None and _version(before) > _version(found):
            return False
        self._drop(name)
        self._mark_gone(name, _version(found))
        return before is not None

    def replace(self, found: Iterable[kube.Object], version: int) -> list[kube.Object]:
        """Becomes this list, made at `version`; the objects that it no longer holds. What was written since stays."""
        seen = set()
        for each in found:
            seen.add(name_of(each))
            self.put(each)
        gone = [each for name, each in self._objects.items() if name not in seen and _version(each) <= version]
        for each in gone:
            self._drop(name_of(each))
            self._mark_gone(name_of(each), version)
        return gone

    def _mark_gone(self, name: Name, version: int) -> None:
        self._gone.pop(name, None)
        self._gone[name] = version
        if len(self._gone) > _GONE:
            del self._gone[next(iter(self._gone))]

    def _drop(self, name: Name) -> None:
        before = self._objects.pop(name, None)
        for key in self._index(before) if before is not None else ():
            names = self._by_key.get(key, {})
            names.pop(name, None)
            if not names:
                self._by_key.pop(key, None)


def without_managed_fields(found: kube.Object) -> kube.Object:
    """An object without the bookkeeping of its fields' owners, which is often half of it."""
    found["metadata"].pop("managedFields", None)
    return found


def _version(found: kube.Object) -> int:
    """Versions of one collection rise; this one is etcd's revision."""
    return int(found["metadata"].get("resourceVersion") or 0)


class Informer:
    """Keeps a `Store` in step with a collection, in some namespaces or in all."""

    def __init__(
        self,
        client: kube.KubeClient,
        clock: clocks.Clock,
        store: Store,
        paths: Iterable[str],
        labels: str = "",
        *,
        on_change: Callable[[kube.Object], None] = lambda found: None,
        optional: bool = False,
        watch_s: int = 300,
    ) -> None:
        """`optional`: the kind may be unknown to the server; it is then asked for again once in a while."""
        self._kube, self._clock, self.store = client, clock, store
        self._paths, self._labels, self._watch_s = tuple(paths), labels, watch_s
        self._on_change, self._optional = on_change, optional
        self._log = logs.get("operator")
        self._tasks: list[asyncio.Task[None]] = []
        self._listed: set[str] = set()
        # Paths that no watch runs for, with how long to wait after the next failure, s.
        self._away: dict[str, float] = {}
        # Paths that were never listed because the server refuses it, for lack of a right or of the namespace.
        self._refused: set[str] = set()
        # For an optional kind: whether the server has it.
        self.present = not optional

    @property
    def synced(self) -> bool:
        """Whether everything was listed once."""
        return self._listed == set(self._paths)

    def listed(self, path: str) -> bool:
        """Whether this one was listed once."""
        return path in self._listed

    def refused(self, path: str) -> bool:
        """Whether the server refuses to list this one, which it never has."""
        return path in self._refused

    @property
    def in_step(self) -> bool:
        """Whether every watch runs."""
        return self.synced and not self._away

    def in_step_in(self, namespace: str) -> bool:
        """Whether the watches run that tell of a namespace."""
        paths = [path for path in self._paths if "/namespaces/" not in path or f"/namespaces/{namespace}/" in path]
        return all(path in self._listed and path not in self._away for path in paths)

    @property
    def away(self) -> bool:
        """Whether something of it could not be had when it was tried last."""
        return bool(self._away)

    async def start(self) -> None:
        """Begins to follow; the server may be away."""
        self._tasks = [asyncio.create_task(self._follow(path), name=f"watch {path}") for path in self._paths]

    async def stop(self) -> None:
        """Stops following; the store stays as it was."""
        await tasks.cancel(self._tasks)

    def take(self, found: kube.Object) -> None:
        """What this operator wrote itself, as the server answered it: no pass shall miss it until the watch tells."""
        self.store.put(found)

    async def _follow(self, path: str) -> None:
        """Lists, then watches; goes on from the last version when a watch ends, lists when the history is gone."""
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list(path)
                events = self._kube.watch(path, version, self._labels, self._watch_s, lambda: self._watches(path))
                async for event in events:
                    version = event.object["metadata"]["resourceVersion"]
                    self._happened(event)
            except kube.GoneError as exc:
                # Listed again at once; where not even the version of a new list is kept, later each time.
                if path in self._away:
                    await self._failed(path, "", exc)
                self._away.setdefault(path, _BACKOFF_FIRST_S)
                version = ""
            except errors.PenstockError as exc:
                version = await self._failed(path, version, exc)

    def _watches(self, path: str) -> None:
        """Changes come from here on."""
        self._away.pop(path, None)

    async def _failed(self, path: str, version: str, exc: errors.PenstockError) -> str:
        """Waits, longer each time until a watch runs again; the version to go on from."""
        if self._optional and isinstance(exc, kube.UnknownKindError):
            self._listed.add(path)
            self._away.pop(path, None)
            self.present = False
            await self._clock.sleep(_OPTIONAL_S)
            return ""
        if not exc.retryable and path not in self._listed:
            self._refused.add(path)
        wait_s = self._away.get(path, _BACKOFF_FIRST_S)
        self._away[path] = min(_BACKOFF_MAX_S, wait_s * 2)
        self._log.warning("watch_lost", path=path, reason=str(exc), again_s=wait_s)
        await self._clock.sleep(wait_s)
        # After a refusal the version itself may be what is wrong.
        return version if exc.retryable else ""

    async def _list(self, path: str) -> str:
        found, version = await self._kube.list(path, self._labels)
        prefix = path.partition("/namespaces/")[2].partition("/")[0]
        gone = self.store.replace(found, int(version)) if not prefix else self._replace_part(prefix, found, version)
        self.present = True
        self._listed.add(path)
        self._refused.discard(path)
        for each in (*found, *gone):
            self._on_change(each)
        return version

    def _replace_part(self, namespace: str, found: list[kube.Object], version: str) -> list[kube.Object]:
        """As `Store.replace`, for one namespace of several."""
        others = [each for each in self.store if each["metadata"].get("namespace") != namespace]
        return self.store.replace([*others, *found], int(version))

    def _happened(self, event: kube.Event) -> None:
        if event.type == "BOOKMARK":
            return
        changed = self.store.remove(event.object) if event.type == "DELETED" else self.store.put(event.object)
        if changed:
            self._on_change(event.object)

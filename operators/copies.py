"""The copies of the cluster that one operator keeps, and which passes their changes make due."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from operators import cache, images, kube, loop, pods, profiles, sight, unbuilt
from operators.policy import hardware
from penstock.api.crds import acceleratorprofile, base, modeldeployment
from penstock.runtime import clock as clocks


class Copies:
    """The informers of one operator, and what their changes mark."""

    def __init__(
        self,
        client: kube.KubeClient,
        clock: clocks.Clock,
        namespaces: tuple[str, ...],
        mark: Callable[[loop.Key], None],
    ) -> None:
        self._mark = mark
        # What is followed in each namespace that is named, its ModelDeployments first; under "" all else.
        self._parts: dict[str, list[tuple[cache.Informer, str]]] = {namespace: [] for namespace in ("", *namespaces)}

        def follow(
            path: Callable[[str], str],
            store: cache.Store,
            on_change: Callable[[kube.Object], None],
            **kwargs: bool | str,
        ) -> cache.Informer:
            spaces = namespaces or ("",)
            paths = [path(namespace) for namespace in spaces]
            made = cache.Informer(client, clock, store, paths, on_change=on_change, **kwargs)  # type: ignore[arg-type]  # labels and optional
            self._passes_need(made, spaces, paths)
            return made

        self.deployments = follow(sight.DEPLOYMENT.path, cache.Store(), self._of(modeldeployment.ModelDeployment))
        self.profiles = cache.Informer(
            client, clock, cache.Store(), [sight.PROFILE.path()], on_change=self._profile_changed
        )
        self._passes_need(self.profiles, ("",), [sight.PROFILE.path()])
        self.nodes = cache.Informer(
            client, clock, cache.Store(slim=profiles.slim_node), ["/api/v1/nodes"], on_change=self._node_changed
        )
        # Generation of each profile whose deployments have been marked for it.
        self._specified: dict[str, int] = {}
        # What profiles count of each node: its heartbeats change nothing of that.
        self._counted: dict[str, hardware.Node] = {}
        self.owned = {
            kind: follow(
                kind.path,
                cache.Store(sight.by_label, slim_pod if kind == sight.POD else None),
                self._owned_changed,
                labels=pods.DEPLOYMENT_LABEL,
                optional=kind.optional,
            )
            for kind in sight.OWNED
        }
        self.unbuilt = {kind: self._unbuilt(kind, client, clock, namespaces) for kind in unbuilt.KINDS}

    def _unbuilt(
        self, kind: type[base.Resource], client: kube.KubeClient, clock: clocks.Clock, namespaces: tuple[str, ...]
    ) -> cache.Informer:
        wanted = sight.Kind(kind.__name__, base.API_VERSION, kind.KIND.plural)
        spaces = (namespaces if kind.KIND.namespaced else ()) or ("",)
        paths = [wanted.path(each) for each in spaces]
        made = cache.Informer(client, clock, cache.Store(), paths, on_change=self._of(kind))
        self._passes_need(made, spaces, paths)
        return made

    def _passes_need(self, informer: cache.Informer, namespaces: Sequence[str], paths: Sequence[str]) -> None:
        for namespace, path in zip(namespaces, paths, strict=True):
            self._parts[namespace].append((informer, path))

    @property
    def all(self) -> list[cache.Informer]:
        """All of them."""
        return [self.deployments, self.profiles, self.nodes, *self.owned.values(), *self.unbuilt.values()]

    @property
    def synced(self) -> bool:
        """Whether everything that passes over workers look at was listed once; nodes are only counted.

        Of namespaces that are named one may be left out whose deployments the server refuses to list, as it does where the
        namespace is gone with its RoleBinding: no pass is made there, and the others go on.
        """
        whole = [space for space in self._parts if not space or not self._refused(space)]
        some = len(self._parts) == 1 or len(whole) > 1
        return some and all(each.listed(path) for space in whole for each, path in self._parts[space])

    def looks_after(self, namespace: str) -> bool:
        """Whether passes are made in this namespace."""
        if len(self._parts) == 1:
            return True
        return namespace in self._parts and not self._refused(namespace)

    def _refused(self, namespace: str) -> bool:
        informer, path = self._parts[namespace][0]
        return informer.refused(path)

    @property
    def in_step(self) -> bool:
        """Whether every watch runs."""
        return all(each.in_step for each in self.all)

    async def start(self) -> None:
        """Begins to follow."""
        for each in self.all:
            await each.start()

    async def stop(self) -> None:
        """Stops following."""
        for each in self.all:
            await each.stop()

    def keys(self) -> list[loop.Key]:
        """All objects that passes are made over."""
        found: list[loop.Key] = [
            (modeldeployment.ModelDeployment, *cache.name_of(each)) for each in self.deployments.store
        ]
        found += [(acceleratorprofile.AcceleratorProfile, *cache.name_of(each)) for each in self.profiles.store]
        for kind, informer in self.unbuilt.items():
            found += [(kind, *cache.name_of(each)) for each in informer.store]
        return found

    def workers_changed(self, namespace: str, names: set[str]) -> None:
        """The registry has changed about these workers."""
        for name in names:
            for kind in sight.WORKERS:
                found = self.owned[kind].store.get(namespace, name)
                if found is not None:
                    self._owned_changed(found)

    def _of(self, kind: type[base.Resource]) -> Callable[[kube.Object], None]:
        return lambda found: self._mark((kind, *cache.name_of(found)))

    def _owned_changed(self, found: kube.Object) -> None:
        for key in sight.by_label(found):
            self._mark((modeldeployment.ModelDeployment, *key))

    def _profile_changed(self, found: kube.Object) -> None:
        """Deployments that name the profile may now get workers on it."""
        assert acceleratorprofile.AcceleratorProfile.KIND.namespaced is False
        name = found["metadata"]["name"]
        self._mark((acceleratorprofile.AcceleratorProfile, "", name))
        kept = self.profiles.store.get("", name)
        # A status is no change of what is placed.
        before, now = self._specified.pop(name, None), None if kept is None else kept["metadata"].get("generation", 0)
        if now is not None:
            self._specified[name] = now
        if before == now:
            return
        for each in self.deployments.store:
            spec = each["spec"]
            lists = [spec.get("accelerators", ()), *(role.get("accelerators", ()) for role in spec.get("roles", ()))]
            if any(choice.get("profile") == name for choices in lists for choice in choices):
                self._mark((modeldeployment.ModelDeployment, *cache.name_of(each)))

    def _node_changed(self, found: kube.Object) -> None:
        """Every profile may count it, or have counted it."""
        name = found["metadata"]["name"]
        kept = self.nodes.store.get("", name)
        before, now = self._counted.pop(name, None), None if kept is None else hardware.Node.of(kept)
        if now is not None:
            self._counted[name] = now
        if before == now:
            return
        for each in self.profiles.store:
            self._mark((acceleratorprofile.AcceleratorProfile, *cache.name_of(each)))


def slim_pod(found: kube.Object) -> kube.Object:
    """What passes read of a Pod: ten thousand whole ones would be hundreds of MB."""
    meta = {key: value for key, value in found["metadata"].items() if key not in ("managedFields", "generateName")}
    status, spec = found.get("status", {}), found.get("spec", {})
    kept = ("phase", "conditions", "containerStatuses", "initContainerStatuses", "podIP", "reason", "message")
    return {
        "metadata": meta,
        "spec": {"nodeName": spec.get("nodeName", ""), **images.slim(spec)},
        "status": {key: status[key] for key in kept if key in status},
    }

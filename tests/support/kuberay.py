"""KubeRay as tests play it: each RayCluster or RayService gets its Pods at once, and they go with it."""

from __future__ import annotations

import pathlib
from typing import Any

import yaml

from operators import sight
from tests.cluster import api
from tests.support.operator_process import until

Object = dict[str, Any]


def install(server: api.Api, folder: pathlib.Path) -> None:
    """The definitions of RayClusters and RayServices, established."""
    # The fast loader: a file has 900 kB.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for kind in Played.kinds:
        document = yaml.load((folder / f"ray.io_{kind.plural}.yaml").read_text(), Loader=loader)
        assert server.create(document, "").status_code in (201, 409)
    until(lambda: all(server.get(kind.path()).is_success for kind in Played.kinds), what="KubeRay's kinds")


class Played:
    """The units of one namespace."""

    kinds = (sight.UNIT, sight.SERVED)

    def __init__(self, server: api.Api, namespace: str) -> None:
        self._server, self._namespace = server, namespace
        self._units: dict[str, Object] = {}
        # Names of Pods by unit.
        self._pods: dict[str, list[str]] = {}

    def units(self) -> dict[str, Object]:
        """RayClusters and RayServices by name, as of the last `act`."""
        return self._units

    def pods_of(self, unit: str) -> list[str]:
        """Names of its Pods; none where it is no unit."""
        return self._pods.get(unit, [])

    def act(self) -> set[str]:
        """One look: makes what is missing, and takes what has lost its unit; the names of all Pods of units."""
        found = [each for kind in self.kinds for each in self._server.get(kind.path(self._namespace)).json()["items"]]
        self._units = {each["metadata"]["name"]: each for each in found}
        for name in self._pods.keys() - self._units.keys():
            for pod in self._pods.pop(name):
                self._server.delete({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}}, self._namespace)
        for name in self._units.keys() - self._pods.keys():
            self._pods[name] = self._made(self._units[name])
        return {pod for names in self._pods.values() for pod in names}

    def _made(self, unit: Object) -> list[str]:
        # A RayService has its Pods by a cluster of another name.
        spec, meta = unit["spec"].get("rayClusterConfig", unit["spec"]), unit["metadata"]
        owner = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "name": meta["name"], "uid": meta["uid"]}
        parts = [("head", spec["headGroupSpec"]), *(("worker", each) for each in spec.get("workerGroupSpecs", ()))]
        names = []
        for part, group in parts:
            template = group["template"]
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{meta['name']}-{part}",
                    "labels": template["metadata"]["labels"] | {"ray.io/node-type": part},
                    "ownerReferences": [owner | {"controller": True}],
                },
                "spec": template["spec"],
            }
            made = self._server.create(pod, self._namespace)
            assert made.is_success, made.text
            names.append(pod["metadata"]["name"])
        return names

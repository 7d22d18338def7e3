"""KubeRay as tests play it: each RayCluster gets its Pods at once, and they go with it."""

from __future__ import annotations

import pathlib
from typing import Any

import yaml

from operators import sight
from tests.cluster import api
from tests.support.operator_process import until

Object = dict[str, Any]


def install(server: api.Api, folder: pathlib.Path) -> None:
    """The definition of RayClusters, established."""
    # The fast loader: the file has 900 kB.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load((folder / "ray.io_rayclusters.yaml").read_text(), Loader=loader)
    assert server.create(document, "").status_code in (201, 409)
    until(lambda: server.get(sight.UNIT.path()).is_success, what="RayClusters")


class Played:
    """The units of one namespace."""

    kinds = (sight.UNIT,)

    def __init__(self, server: api.Api, namespace: str) -> None:
        self._server, self._namespace = server, namespace
        self._units: dict[str, Object] = {}
        # Names of Pods by unit.
        self._pods: dict[str, list[str]] = {}

    def units(self) -> dict[str, Object]:
        """RayClusters by name, as of the last `act`."""
        return self._units

    def pods_of(self, unit: str) -> list[str]:
        """Names of its Pods; none where it is no unit."""
        return self._pods.get(unit, [])

    def act(self) -> set[str]:
        """One look: makes what is missing, and takes what has lost its unit; the names of all Pods of units."""
        found = self._server.get(sight.UNIT.path(self._namespace)).json()["items"]
        self._units = {each["metadata"]["name"]: each for each in found}
        for name in self._pods.keys() - self._units.keys():
            for pod in self._pods.pop(name):
                self._server.delete({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}}, self._namespace)
        for name in self._units.keys() - self._pods.keys():
            self._pods[name] = self._made(self._units[name])
        return {pod for names in self._pods.values() for pod in names}

    def _made(self, unit: Object) -> list[str]:
        spec, meta = unit["spec"], unit["metadata"]
        owner = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "name": meta["name"], "uid": meta["uid"]}
        parts = [("head", spec["headGroupSpec"]), *(("worker", each) for each in spec["workerGroupSpecs"])]
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

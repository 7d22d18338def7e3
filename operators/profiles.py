"""The status of AcceleratorProfiles: how many nodes and accelerators there are of each."""

from __future__ import annotations

from operators import cache, kube, sight
from operators.policy import hardware
from penstock.api.crds import acceleratorprofile, base
from penstock.runtime import clock as clocks


def slim_node(found: kube.Object) -> kube.Object:
    """What is read of a node; a whole one is ten kilobytes, most of them the names of its images."""
    meta, said = found["metadata"], found.get("status", {})
    return {
        "metadata": {key: meta[key] for key in ("name", "labels", "resourceVersion") if key in meta},
        "spec": {"unschedulable": found.get("spec", {}).get("unschedulable", False)},
        "status": {
            "allocatable": said.get("allocatable", {}),
            "conditions": [each for each in said.get("conditions", ()) if each["type"] == "Ready"],
        },
    }


class Profiles:
    """Counts for one profile at a time, from copies of profiles and nodes."""

    def __init__(
        self, client: kube.KubeClient, clock: clocks.Clock, known: cache.Informer, nodes: cache.Informer
    ) -> None:
        self._kube, self._clock, self._known, self._nodes = client, clock, known, nodes

    async def reconcile(self, name: str) -> bool:
        """Writes the status where it differs; whether it wrote. Raises as the client."""
        document = self._known.store.get("", name)
        if document is None:
            return False
        read = acceleratorprofile.AcceleratorProfile.read(document)
        nodes = map(hardware.Node.of, self._nodes.store) if self._nodes.synced else None
        wanted = hardware.of_profile(read, nodes, self._clock.now_s())
        if wanted == read.status:
            return False
        applied = {
            "apiVersion": base.API_VERSION,
            "kind": "AcceleratorProfile",
            "metadata": {"name": name},
            "status": wanted.model_dump(by_alias=True, exclude_none=True, mode="json"),
        }
        self._known.take(await self._kube.apply(f"{sight.PROFILE.path('', name)}/status", applied))
        return True

"""The status of AcceleratorProfiles: how many nodes and accelerators there are of each."""

from __future__ import annotations

import pydantic

from operators import cache, kube, refused, sight
from operators.policy import hardware
from penstock.api.crds import acceleratorprofile, base
from penstock.runtime import clock as clocks
from penstock.runtime import errors

_LISTING_S, _REFUSED_S = 0.5, 15.0


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

    async def reconcile(self, name: str) -> float | None:
        """Writes the status where it differs; when to look again, s, where nodes are not known yet.

        Raises as the client, and TerminalError for a profile that this version does not take, which says so in its status.
        """
        document = self._known.store.get("", name)
        if document is None:
            return None
        try:
            read = acceleratorprofile.AcceleratorProfile.read(document)
        except pydantic.ValidationError as exc:
            why = refused.message(acceleratorprofile.AcceleratorProfile, exc)
            written = await refused.say(self._kube, self._clock, acceleratorprofile.AcceleratorProfile, document, why)
            if written is not None:
                self._known.take(written)
            raise errors.TerminalError(f"{name}: {why}") from exc
        listed = self._nodes.synced
        if not listed and not self._nodes.away:
            # The first list is on its way.
            return _LISTING_S
        nodes = map(hardware.Node.of, self._nodes.store) if listed else None
        wanted = hardware.of_profile(read, nodes, self._clock.now_s())
        again_s = None if listed else _REFUSED_S
        if wanted == read.status:
            return again_s
        applied = {
            "apiVersion": base.API_VERSION,
            "kind": "AcceleratorProfile",
            "metadata": {"name": name},
            "status": wanted.model_dump(by_alias=True, exclude_none=True, mode="json"),
        }
        self._known.take(await self._kube.apply(f"{sight.PROFILE.path('', name)}/status", applied))
        return again_s

"""What there is of an accelerator: the nodes that a profile names, and what they offer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from operators.policy import status
from penstock.api.crds import acceleratorprofile, values

Object = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Node:
    """What is looked at of a node. `takes_pods`: it is ready, and not cordoned."""

    labels: Mapping[str, str]
    allocatable: Mapping[str, str]
    takes_pods: bool

    @classmethod
    def of(cls, document: Object) -> Node:
        """From the API server's object."""
        said = document.get("status", {})
        answers = any(each["type"] == "Ready" and each["status"] == "True" for each in said.get("conditions", ()))
        takes = answers and not document.get("spec", {}).get("unschedulable", False)
        return cls(document["metadata"].get("labels", {}), said.get("allocatable", {}), takes)

    def offers(self, resource: str) -> int:
        """How many of a resource Pods may have there; 0 also where the node writes it as no quantity."""
        try:
            return int(values.quantity(self.allocatable.get(resource, "0")))
        except ValueError:
            return 0


@dataclasses.dataclass(frozen=True)
class Found:
    """Of one profile: nodes that carry its labels, those of them that offer its resource, and how much."""

    labelled: int
    nodes: int
    accelerators: int


def find(resource: str, selector: Mapping[str, str], nodes: Iterable[Node]) -> Found:
    """Over nodes that take Pods. O(nodes)."""
    labelled = [each for each in nodes if each.takes_pods and selector.items() <= each.labels.items()]
    offered = [count for each in labelled if (count := each.offers(resource)) > 0]
    return Found(len(labelled), len(offered), sum(offered))


def of_profile(
    profile: acceleratorprofile.AcceleratorProfile, nodes: Iterable[Node] | None, now_s: float
) -> acceleratorprofile.Status:
    """Its status; `nodes` is None where they were not listed yet, and what was counted before is kept."""
    spec, before = profile.spec, profile.status
    found = None if nodes is None else find(spec.resource_name, spec.node_selector, nodes)
    holds, reason, message = _verdict(spec, found)
    generation = profile.metadata.generation
    said = status.condition(before.conditions, status.READY, holds, reason, message, generation, now_s)
    return acceleratorprofile.Status(
        observed_generation=generation,
        conditions=(said,),
        nodes=before.nodes if found is None else found.nodes,
        allocatable=before.allocatable if found is None else found.accelerators,
    )


def _verdict(spec: acceleratorprofile.Spec, found: Found | None) -> tuple[bool | None, str, str]:
    if found is None:
        return (
            None,
            "NodesUnknown",
            "nodes have not been listed -> give the operator's ServiceAccount the right to list them",
        )
    if found.accelerators:
        return True, "Available", f"{found.accelerators} of {spec.resource_name} on {found.nodes} nodes"
    if found.labelled and spec.node_selector:
        message = f"{found.labelled} nodes have its labels, and none offers {spec.resource_name}"
        return False, "NoDevices", f"{message} -> run the device plugin there"
    labels = ",".join(f"{key}={value}" for key, value in spec.node_selector.items())
    lacks = f"no node that takes Pods has {labels or spec.resource_name}"
    if spec.availability.kind != "Fixed":
        return (
            False,
            "NoNodes",
            f"{lacks}; availability is {spec.availability.kind} -> a node autoscaler has to add some",
        )
    return False, "NoNodes", f"{lacks} -> " + ("label the nodes that have it" if labels else "run its device plugin")

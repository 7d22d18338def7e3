"""What there is of an accelerator."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from operators import copies, kube, loop, profiles
from operators.policy import hardware
from penstock.api.crds import acceleratorprofile
from penstock.runtime import clock as clocks

GPU = "nvidia.com/gpu"


def node(
    name: str = "n", gpus: str | None = "8", *, kind: str = "h100", ready: bool = True, cordoned: bool = False, version: int = 1
) -> dict[str, Any]:  # fmt: skip
    """As the API server gives it."""
    return {
        "metadata": {"name": name, "labels": {"gpu": kind}, "resourceVersion": str(version)},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {
            "allocatable": {"cpu": "8", "memory": "32Gi"} | ({} if gpus is None else {GPU: gpus}),
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
            "images": [{"names": ["x" * 100]}],
        },
    }


def profile(before: dict[str, Any] | None = None, **spec: Any) -> acceleratorprofile.AcceleratorProfile:
    """Of H100s, unless another selector is given."""
    document = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "AcceleratorProfile",
        "metadata": {"name": "h100", "generation": 3},
        "spec": {"resourceName": GPU, "memory": "80Gi", "nodeSelector": {"gpu": "h100"}, **spec},
    }
    return acceleratorprofile.AcceleratorProfile.read(document | ({"status": before} if before else {}))


@pytest.mark.parametrize(
    ("nodes", "spec", "counted", "ready", "reason", "said"),
    [
        ([node(), node("b"), node(kind="a100")], {}, (2, 16), "True", "Available", f"16 of {GPU} on 2 nodes"),
        ([node(), node("b", None)], {}, (1, 8), "True", "Available", f"8 of {GPU} on 1 nodes"),
        ([node(), node("b", None)], {"nodeSelector": {}}, (1, 8), "True", "Available", f"8 of {GPU} on 1 nodes"),
        ([node(ready=False), node(cordoned=True)], {}, (0, 0), "False", "NoNodes", "gpu=h100 -> label the nodes that have it"),
        ([node(gpus=None), node(gpus="0")], {}, (0, 0), "False", "NoDevices", f"2 nodes have its labels, and none offers {GPU}"),
        ([node(gpus="many")], {}, (0, 0), "False", "NoDevices", "run the device plugin there"),
        ([node(gpus=None)], {"nodeSelector": {}}, (0, 0), "False", "NoNodes", f"has {GPU} -> run its device plugin"),
        (
            [], {"availability": {"kind": "OnDemand"}}, (0, 0), "False", "NoNodes",
            "availability is OnDemand -> a node autoscaler has to add some",
        ),
        (None, {}, (None, None), "Unknown", "NodesUnknown", "give the operator's ServiceAccount the right"),
    ],
    ids=[
        "all", "one without", "without selector", "none takes Pods", "no device plugin", "no number", "none at all",
        "to be added", "not listed",
    ],
)  # fmt: skip
def test_a_profile_tells_what_there_is(
    nodes: list[dict[str, Any]] | None, spec: dict[str, Any], counted: tuple[int | None, int | None], ready: str, reason: str, said: str
) -> None:  # fmt: skip
    """Only of nodes that take Pods; what is missing comes with the next step."""
    known = None if nodes is None else [hardware.Node.of(profiles.slim_node(each)) for each in nodes]
    status = hardware.of_profile(profile(**spec), known, 1_800_000_000.0)
    [condition] = status.conditions
    assert (status.nodes, status.allocatable, status.observed_generation) == (*counted, 3)
    assert (condition.type, condition.status, condition.reason) == ("Ready", ready, reason)
    assert said in condition.message


def test_what_was_counted_stays_while_nodes_are_not_seen() -> None:
    """And the time of the last change stays while the condition does."""
    known = [hardware.Node.of(node())]
    first = hardware.of_profile(profile(), known, 1_800_000_000.0)
    again = profile(first.model_dump(by_alias=True, mode="json"))
    assert hardware.of_profile(again, known, 1_800_000_900.0) == first
    unseen = hardware.of_profile(again, None, 1_800_000_900.0)
    assert (unseen.nodes, unseen.allocatable, unseen.conditions[0].status) == (1, 8, "Unknown")


async def test_a_heartbeat_of_a_node_makes_no_pass_due() -> None:
    """What profiles count does: labels, devices, readiness, coming and going."""
    marked: list[loop.Key] = []
    client = kube.KubeClient("https://127.0.0.1:1", ssl.create_default_context(), "")
    found = copies.Copies(client, clocks.ManualClock(), (), marked.append)
    found.profiles.store.put({"metadata": {"name": "h100", "resourceVersion": "1"}, "spec": {}})
    versions = iter(range(1, 100))

    def happens(kind: str, document: dict[str, Any]) -> int:
        marked.clear()
        document["metadata"]["resourceVersion"] = str(next(versions))
        found.nodes._happened(kube.Event(kind, document))
        assert {key[0] for key in marked} <= {acceleratorprofile.AcceleratorProfile}
        return len(marked)

    assert happens("ADDED", node()) == 1
    heartbeat = node()
    heartbeat["status"]["conditions"][0]["lastHeartbeatTime"] = "later"
    assert happens("MODIFIED", heartbeat) == 0
    assert happens("MODIFIED", node(gpus="7")) == 1
    assert happens("MODIFIED", node(gpus="7", ready=False)) == 1
    assert happens("MODIFIED", node(gpus="7", ready=False)) == 0
    assert happens("DELETED", node(gpus="7", ready=False)) == 1
    await client.close()

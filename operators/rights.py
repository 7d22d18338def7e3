"""What the operator does in the API server, as rules of RBAC: the chart's roles are generated from them, and
`penstock doctor` asks whether the operator may. A test counts what is denied and what nothing uses.
"""

from __future__ import annotations

import dataclasses

from penstock.api.crds import base

LEASE = "penstock-operator"


@dataclasses.dataclass(frozen=True)
class Rule:
    """Verbs on resources of one group; `names` where only these objects are meant."""

    why: str
    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()


_UNBUILT = ("loraadapters", "kvcachetiers", "tenants")
# In the namespaces that are looked after: all of them, or those that the settings name.
NAMESPACED = (
    Rule("what is wanted", base.GROUP, ("modeldeployments", *_UNBUILT), ("get", "list", "watch")),
    Rule(
        "what is said of it",
        base.GROUP,
        tuple(f"{each}/status" for each in ("modeldeployments", *_UNBUILT)),
        ("patch",),
    ),
    Rule("what was done", "events.k8s.io", ("events",), ("create",)),
    Rule("workers", "", ("pods",), ("get", "list", "watch", "create", "patch", "delete")),
    Rule(
        "workers of several nodes, or hosted by Ray Serve",
        "ray.io",
        ("rayclusters", "rayservices"),
        ("get", "list", "watch", "create", "patch", "delete"),
    ),
    Rule(
        "limits of evictions",
        "policy",
        ("poddisruptionbudgets",),
        ("get", "list", "watch", "create", "patch", "delete"),
    ),
    Rule("the workers' Service", "", ("services",), ("get", "list", "watch", "create", "patch")),
    Rule(
        "its addresses", "discovery.k8s.io", ("endpointslices",), ("get", "list", "watch", "create", "patch", "delete")
    ),
    Rule(
        "pools of the Gateway API",
        "inference.networking.k8s.io",
        ("inferencepools",),
        ("get", "list", "watch", "create", "patch", "delete"),
    ),
    Rule(
        "routes of the Gateway API",
        "gateway.networking.k8s.io",
        ("httproutes",),
        ("get", "list", "watch", "create", "patch", "delete"),
    ),
    Rule("history of roll-outs", "apps", ("controllerrevisions",), ("list", "watch", "create", "patch", "delete")),
)
# Of the cluster as a whole.
CLUSTER = (
    Rule("hardware that workers are placed on", base.GROUP, ("acceleratorprofiles",), ("list", "watch")),
    Rule("how many there are", "", ("nodes",), ("list", "watch")),
    Rule("what is said of it", base.GROUP, ("acceleratorprofiles/status",), ("patch",)),
    Rule("rows and racks", base.GROUP, ("powerdomains",), ("get", "list", "watch")),
    Rule("what is said of them", base.GROUP, ("powerdomains/status",), ("patch",)),
)
# In the release's own namespace.
OWN = (
    Rule("who leads: a name cannot be asked for before it is there", "coordination.k8s.io", ("leases",), ("create",)),
    Rule("who leads", "coordination.k8s.io", ("leases",), ("get", "update"), (LEASE,)),
)

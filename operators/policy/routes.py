"""How the route from a Gateway to a deployment stands, in the words of the Gateways that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.api.crds import modeldeployment, operation

ROUTED = "Routed"
Object = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Said:
    """Value, reason and message of a condition; None is Unknown."""

    holds: bool | None
    reason: str
    message: str


@dataclasses.dataclass(frozen=True)
class Route:
    """What is known of a route that is asked for: what keeps it from being made, why it was refused, the object."""

    lack: Said | None = None
    refused: str = ""
    found: Object | None = None


def picker_in(namespace: str, picker: str) -> str:
    """The picker, as `name:port`, of pools in a namespace: they name one beside them only. Empty where it is elsewhere."""
    space, _, service = picker.rpartition("/")
    return service if space in ("", namespace) else ""


def lack(routes: bool, pools: bool, namespace: str, picker: str) -> Said | None:
    """What a cluster or an installation lacks for a route in a namespace; None where nothing."""
    if not routes:
        step = "install the Gateway API (https://gateway-api.sigs.k8s.io/guides)"
        return Said(False, "NoGatewayAPI", f"the cluster does not know HTTPRoutes -> {step}")
    if not pools:
        step = "install the Gateway API Inference Extension"
        return Said(False, "NoInferencePools", f"the cluster does not know InferencePools -> {step}")
    if not picker:
        step = "helm upgrade ... --set gateway.pickerPort=9002"
        return Said(False, "NoEndpointPicker", f"the gateways serve no endpoint picker -> {step}")
    if not picker_in(namespace, picker):
        space = picker.partition("/")[0]
        said = f"the endpoint picker is in namespace {space}, and an InferencePool names one in its own only"
        return Said(
            False, "NoEndpointPicker", f"{said} -> move the ModelDeployment there, or install Penstock here too"
        )
    return None


def judge(deployment: modeldeployment.ModelDeployment, route: Route) -> Said:
    """Accepted by every Gateway that is named, or what the first of the others says."""
    gateway = deployment.spec.gateway
    if route.lack is not None:
        return route.lack
    if route.refused:
        return Said(False, "RouteRefused", route.refused[:1000])
    assert gateway is not None
    space = deployment.metadata.namespace
    judged = [_by_parent(parent, space, route.found) for parent in gateway.parent_refs]
    for value in (False, None):
        for each in judged:
            if each.holds is value:
                return each
    names = ", ".join(_name(parent, space) for parent in gateway.parent_refs)
    return Said(True, "RouteAccepted", f"{names} sends requests to the workers")


def _by_parent(parent: operation.ParentRef, space: str, route: Object | None) -> Said:
    name = _name(parent, space)
    conditions = list(_conditions(parent, space, route))
    for each in conditions:
        if each["status"] == "False":
            return Said(False, each["reason"], f"Gateway {name}: {each['reason']}: {each.get('message', '')}"[:1000])
    accepted = any(each["type"] == "Accepted" and each["status"] == "True" for each in conditions)
    if accepted:
        return Said(True, "RouteAccepted", "")
    step = f"check that `kubectl -n {parent.namespace or space} get gateway {parent.name}` is there and programmed"
    return Said(None, "RouteWaiting", f"Gateway {name} has not said whether it takes the route -> {step}")


def _conditions(parent: operation.ParentRef, space: str, route: Object | None) -> Iterator[Object]:
    """What controllers say of the route as it is now, for this parent."""
    if route is None:
        return
    for status in route.get("status", {}).get("parents", ()):
        said = status["parentRef"]
        same = (
            (said["name"], said.get("namespace", space)) == (parent.name, parent.namespace or space)
            and said.get("sectionName") == parent.section_name
            and said.get("port") == parent.port
        )
        for each in status.get("conditions", ()) if same else ():
            if each.get("observedGeneration", 0) >= route["metadata"].get("generation", 0):
                yield each


def _name(parent: operation.ParentRef, space: str) -> str:
    return f"{parent.namespace or space}/{parent.name}" + (f" ({parent.section_name})" if parent.section_name else "")

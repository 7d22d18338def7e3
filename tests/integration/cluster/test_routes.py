"""Routes from Gateways of the Gateway API to deployments, with its own definitions on a real API server."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from operators import sight
from penstock.runtime import errors
from tests.support.stage import Stage

GATEWAY = {"parentRefs": [{"name": "shared", "namespace": "infra"}]}


@pytest.fixture
def routed(stage: Stage, gateway_api: None) -> Stage:
    """An operator's parts where the kinds are there and gateways have an endpoint picker."""
    stage.host = dataclasses.replace(stage.host, picker=f"{stage.namespace}/gateways:9002")
    stage.optional = (sight.POOL, sight.ROUTE)
    stage.reconciler = stage.another()
    return stage


def route(stage: Stage) -> Any:
    """The HTTPRoute of `m`; None where there is none."""
    found = stage.server.get(sight.ROUTE.path(stage.namespace, "m"))
    return found.json() if found.is_success else None


def say(stage: Stage, *conditions: tuple[str, str, str], parent: dict[str, Any] | None = None) -> None:
    """What the controller of a Gateway writes into the route."""
    made = route(stage)
    found = [
        {
            "type": kind, "status": value, "reason": reason, "message": f"{reason} it is",
            "observedGeneration": made["metadata"]["generation"], "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind, value, reason in conditions
    ]  # fmt: skip
    reference = {"group": "gateway.networking.k8s.io", "kind": "Gateway", **(parent or GATEWAY["parentRefs"][0])}
    status = {"parents": [{"parentRef": reference, "controllerName": "example.com/gateway", "conditions": found}]}
    said = stage.server.merge(f"{sight.ROUTE.path(stage.namespace, 'm')}/status", {"status": status})
    assert said.is_success, said.text


async def test_a_route_leads_to_the_pool(routed: Stage) -> None:
    """It belongs to the deployment, names its Gateways and hosts, takes the prefix away, and sends to the InferencePool."""
    routed.create(1, gateway=GATEWAY | {"hostnames": ["llm.example.com"], "pathPrefix": "/tiny"})
    await routed.once()
    made = route(routed)
    [owner] = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("ModelDeployment", "m")
    assert made["spec"]["hostnames"] == ["llm.example.com"]
    assert (made["spec"]["parentRefs"][0]["name"], made["spec"]["parentRefs"][0]["namespace"]) == ("shared", "infra")
    [rule] = made["spec"]["rules"]
    assert rule["matches"][0]["path"] == {"type": "PathPrefix", "value": "/tiny"}
    assert rule["filters"][0]["urlRewrite"]["path"]["replacePrefixMatch"] == "/"
    assert rule["timeouts"] == {"request": "0s"}
    [backend] = rule["backendRefs"]
    assert (backend["kind"], backend["name"]) == ("InferencePool", "m")
    assert routed.server.get(sight.POOL.path(routed.namespace, "m")).is_success


async def test_it_follows_the_deployment(routed: Stage) -> None:
    """Hosts and prefix that are taken out are taken out of it, what others change is put right, and it goes with the field."""
    routed.create(1, gateway=GATEWAY | {"hostnames": ["llm.example.com"], "pathPrefix": "/tiny"})
    await routed.once()
    path = sight.DEPLOYMENT.path(routed.namespace, "m")
    for field in ("hostnames", "pathPrefix"):
        assert routed.server.merge(path, {"spec": {"gateway": {field: None}}}).is_success
        await routed.once()
        assert not route(routed)["spec"].get("hostnames")
    made = route(routed)
    assert "filters" not in made["spec"]["rules"][0]
    written = made["metadata"]["resourceVersion"]
    await routed.once()
    assert route(routed)["metadata"]["resourceVersion"] == written, "nothing is written where nothing has changed"
    change = {"spec": {"parentRefs": [{"name": "other"}]}}
    assert routed.server.merge(sight.ROUTE.path(routed.namespace, "m"), change).is_success
    await routed.once()
    assert route(routed)["spec"]["parentRefs"][0]["name"] == "shared"
    assert routed.server.merge(path, {"spec": {"gateway": None}}).is_success
    await routed.once()
    assert route(routed) is None
    assert all(each["type"] != "Routed" for each in routed.deployment()["status"]["conditions"])


async def test_its_gateway_has_the_word(routed: Stage) -> None:
    """Routed is Unknown until the Gateway has spoken of the route as it is, False with its reason, True when it takes it."""
    routed.create(1, gateway=GATEWAY)
    await routed.once()
    await routed.once()
    waiting = routed.condition("Routed")
    assert (waiting["status"], waiting["reason"]) == ("Unknown", "RouteWaiting")
    assert "kubectl -n infra get gateway shared" in waiting["message"]
    say(routed, ("Accepted", "True", "Accepted"), ("ResolvedRefs", "True", "ResolvedRefs"), parent={"name": "another"})
    await routed.once()
    assert routed.condition("Routed")["status"] == "Unknown", "another Gateway's word"
    say(routed, ("Accepted", "True", "Accepted"), ("ResolvedRefs", "False", "InvalidKind"))
    await routed.once()
    refused = routed.condition("Routed")
    assert (refused["status"], refused["reason"]) == ("False", "InvalidKind")
    assert "infra/shared" in refused["message"] and "InvalidKind it is" in refused["message"]
    say(routed, ("Accepted", "True", "Accepted"), ("ResolvedRefs", "True", "ResolvedRefs"))
    await routed.once()
    assert routed.condition("Routed")["status"] == "True"
    change = {"spec": {"gateway": {"hostnames": ["a.example.com"]}}}
    assert routed.server.merge(sight.DEPLOYMENT.path(routed.namespace, "m"), change).is_success
    await routed.once()
    await routed.once()
    assert routed.condition("Routed")["status"] == "Unknown", "it has accepted another route than this"


@pytest.mark.parametrize(
    ("kinds", "picker", "reason", "step"),
    [
        ((), "gateways:9002", "NoGatewayAPI", "install the Gateway API"),
        ((sight.ROUTE,), "gateways:9002", "NoInferencePools", "Inference Extension"),
        ((sight.ROUTE, sight.POOL), "", "NoEndpointPicker", "gateway.pickerPort"),
        ((sight.ROUTE, sight.POOL), "elsewhere/gateways:9002", "NoEndpointPicker", "is in namespace elsewhere"),
    ],
)
async def test_what_is_missing_is_said(
    routed: Stage, kinds: tuple[sight.Kind, ...], picker: str, reason: str, step: str
) -> None:
    """Without the kinds or a picker there is no route, workers are made all the same, and the condition says what to do."""
    routed.host, routed.optional = dataclasses.replace(routed.host, picker=picker), kinds
    routed.reconciler = routed.another()
    routed.create(1, gateway=GATEWAY)
    await routed.once()
    said = routed.condition("Routed")
    assert (said["status"], said["reason"]) == ("False", reason) and step in said["message"]
    assert route(routed) is None and set(routed.pods()) == {"m-0"}
    if reason == "NoEndpointPicker":
        assert routed.server.get(sight.POOL.path(routed.namespace, "m")).status_code == 404


async def test_a_persons_own_route_stays(routed: Stage) -> None:
    """A route of the deployment's name that is not the deployment's is not touched, and the condition says so."""
    about = {"apiVersion": sight.ROUTE.api_version, "kind": "HTTPRoute", "metadata": {"name": "m"}}
    made = routed.server.create(about | {"spec": {"parentRefs": [{"name": "mine"}]}}, routed.namespace)
    assert made.is_success, made.text
    routed.create(1, gateway=GATEWAY)
    await routed.once()
    said = routed.condition("Routed")
    assert (said["status"], said["reason"]) == ("False", "RouteRefused") and "delete it, or rename" in said["message"]
    assert route(routed)["spec"]["parentRefs"][0]["name"] == "mine"


async def test_a_refused_route_is_named(routed: Stage) -> None:
    """What only the Gateway API's own rules refuse is told in its words; workers are made all the same."""
    twice = {"parentRefs": [{"name": "shared"}, {"name": "shared", "sectionName": "https"}]}
    routed.create(1, gateway=twice)
    await routed.once()
    said = routed.condition("Routed")
    assert said["reason"] == "RouteRefused" and "sectionName" in said["message"], said
    assert set(routed.pods()) == {"m-0"}


async def test_a_persons_own_pool_stays(routed: Stage) -> None:
    """As every object of the deployment's name that is not the deployment's."""
    target = {"spec": {
        "selector": {"matchLabels": {"app": "mine"}}, "targetPorts": [{"number": 80}],
        "endpointPickerRef": {"name": "mine", "port": {"number": 9002}},
    }}  # fmt: skip
    about = {"apiVersion": sight.POOL.api_version, "kind": "InferencePool", "metadata": {"name": "m"}}
    made = routed.server.create(about | target, routed.namespace)
    assert made.is_success, made.text
    routed.create(1)
    with pytest.raises(errors.TerminalError, match="InferencePool m is there"):
        await routed.once()
    assert routed.condition("Published")["reason"] == "NameTaken"
    found = routed.server.get(sight.POOL.path(routed.namespace, "m")).json()
    assert found["spec"]["endpointPickerRef"]["name"] == "mine" and "ownerReferences" not in found["metadata"]


async def test_a_pool_goes_with_the_picker(routed: Stage) -> None:
    """Nobody is left to choose for it: a Gateway that it stayed for would answer nothing but errors."""
    routed.create(1)
    await routed.once()
    assert routed.server.get(sight.POOL.path(routed.namespace, "m")).is_success
    routed.host = dataclasses.replace(routed.host, picker="")
    routed.reconciler = routed.another()
    await routed.once()
    assert routed.server.get(sight.POOL.path(routed.namespace, "m")).status_code == 404

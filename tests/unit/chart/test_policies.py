"""What the chart's NetworkPolicies let through, worked out from them as Kubernetes says it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from operators import pods
from tests.support import charts

RELEASE, FLEET, ELSEWHERE = "ns", "models", "else"


@dataclasses.dataclass(frozen=True)
class End:
    """One end of a connection."""

    namespace: str
    labels: dict[str, str]


def allowed(policies: list[charts.Object], source: End, target: End, port: str) -> bool:
    """Whether a Pod may connect to a port of another: where a policy selects the target, one of its rules has to fit."""
    chosen = [
        each["spec"]
        for each in policies
        if each["metadata"]["namespace"] == target.namespace and _fits(each["spec"]["podSelector"], target.labels)
    ]
    rules = [rule for spec in chosen for rule in spec["ingress"]]
    return not chosen or any(_has_port(rule, port) and _has_peer(rule, source, target.namespace) for rule in rules)


def _has_port(rule: dict[str, Any], port: str) -> bool:
    return "ports" not in rule or port in [each["port"] for each in rule["ports"]]


def _has_peer(rule: dict[str, Any], source: End, namespace: str) -> bool:
    return "from" not in rule or any(_is_peer(peer, source, namespace) for peer in rule["from"])


def _is_peer(peer: dict[str, Any], source: End, namespace: str) -> bool:
    """Without a namespaceSelector it is the policy's own namespace."""
    if "namespaceSelector" in peer:
        here = _fits(peer["namespaceSelector"], {"kubernetes.io/metadata.name": source.namespace})
    else:
        here = source.namespace == namespace
    return here and _fits(peer.get("podSelector", {}), source.labels)


def _fits(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


def ends(objects: list[charts.Object]) -> dict[str, End]:
    """Pods of a release and its workers, and others."""
    found = {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: End(
            RELEASE, each["spec"]["template"]["metadata"]["labels"]
        )
        for each in objects
        if each["kind"] in ("Deployment", "StatefulSet", "DaemonSet")
    }
    test = next(each for each in objects if each["kind"] == "Pod")
    other = {**found["gateway"].labels, "app.kubernetes.io/instance": "another"}
    return found | {
        "test": End(RELEASE, test["metadata"]["labels"]),
        "worker": End(FLEET, pods.selector("tiny", "unified")),
        "stranger": End(RELEASE, {"app": "x"}),
        "stranger in the fleet": End(FLEET, {"app": "x"}),
        "stranger elsewhere": End(ELSEWHERE, {"app": "x"}),
        "gateway of another release": End(ELSEWHERE, other),
        "prometheus": End(ELSEWHERE, {"app.kubernetes.io/name": "prometheus"}),
        "kuberay": End(ELSEWHERE, {"app.kubernetes.io/name": "kuberay-operator"}),
    }


# Who connects to which port of whom: all else is refused.
WANTED = {
    ("redis", "redis"): {"gateway", "controller", "operator", "node-agent", "test", "worker"},
    ("worker", "http"): {"gateway", "controller", "operator", "test", "worker", "kuberay", "prometheus"},
    ("gateway", "admin"): {"controller", "prometheus"},
    ("controller", "grpc"): {
        "gateway",
        "controller",
        "operator",
        "node-agent",
        "redis",
        "test",
        "stranger",
    },
    ("controller", "metrics"): {"prometheus"},
    ("operator", "metrics"): {"prometheus"},
    ("node-agent", "metrics"): {"prometheus"},
}
MONITORING = (
    'networkPolicies.monitoring=[{"namespaceSelector": {}, '
    '"podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}]'
)


@pytest.fixture(scope="module")
def objects() -> list[charts.Object]:
    """A release whose models live in another namespace."""
    return charts.template(f"fleet={FLEET}", "nodeAgent.enabled=true", MONITORING, namespace=RELEASE)


@pytest.mark.parametrize(("target", "port"), WANTED)
def test_what_is_needed_passes_and_nothing_else(objects: list[charts.Object], target: str, port: str) -> None:
    """For each port and every Pod that there may be."""
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    known = ends(objects)
    passing = {name for name, source in known.items() if allowed(policies, source, known[target], port)}
    assert passing == WANTED[target, port]


def test_everybody_reaches_the_clients_port(objects: list[charts.Object]) -> None:
    """It is for clients, wherever they are."""
    policies = [each for each in objects if each["kind"] == "NetworkPolicy"]
    known = ends(objects)
    assert all(allowed(policies, source, known["gateway"], "http") for source in known.values())

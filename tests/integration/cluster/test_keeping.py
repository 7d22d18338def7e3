"""What a deployment has beside its workers, where names are taken and the API server refuses."""

from __future__ import annotations

from typing import Any

import pytest

from operators import sight
from penstock.runtime import errors
from tests.support.stage import Stage

_SELECTOR = {"selector": {"matchLabels": {"app": "mine"}}}
OTHERS: list[tuple[sight.Kind, str, dict[str, Any]]] = [
    (sight.SERVICE, "m", {"spec": {"ports": [{"port": 80}], "selector": {"app": "mine"}}}),
    (sight.BUDGET, "m-unified", {"spec": {"minAvailable": 3, **_SELECTOR}}),
    (sight.SLICE, "m-ipv4-0", {"addressType": "IPv4", "endpoints": [], "ports": []}),
]


def forbid(stage: Stage, resource: str) -> None:
    """A quota that lets none of these be made, counted as the controller-manager would."""
    hard = {resource: "0"}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": hard}}
    assert stage.server.create(quota, stage.namespace).is_success
    path = f"/api/v1/namespaces/{stage.namespace}/resourcequotas/none/status"
    assert stage.server.merge(path, {"status": {"hard": hard, "used": {resource: "0"}}}).is_success


def allow(stage: Stage) -> None:
    """The quota goes."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    assert stage.server.delete(quota, stage.namespace).is_success


async def serving(stage: Stage) -> None:
    """A deployment with one worker that serves, so that it has addresses to publish."""
    stage.create(1)
    with pytest.raises(errors.TerminalError):
        await stage.once()
    stage.pod_says("m-0", "Running", ready=True, podIP="10.0.0.1", podIPs=[{"ip": "10.0.0.1"}])
    await stage.register("m-0")


@pytest.mark.parametrize(("kind", "name", "fields"), OTHERS, ids=[kind.name for kind, _, _ in OTHERS])
async def test_a_persons_own_object_is_left_alone(
    stage: Stage, kind: sight.Kind, name: str, fields: dict[str, Any]
) -> None:
    """It stays as it is, all else is kept, the condition says what to do; once it is gone the deployment has its own."""
    about = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": name}}
    made = stage.server.create(about | fields, stage.namespace)
    assert made.is_success, made.text
    stage.create(1)
    for number in range(3):
        try:
            await stage.once()
        except errors.TerminalError:
            assert number or kind is not sight.SLICE, "there is no address yet"
        if not number:
            stage.pod_says("m-0", "Running", ready=True, podIP="10.0.0.1", podIPs=[{"ip": "10.0.0.1"}])
            await stage.register("m-0")
    path = kind.path(stage.namespace, name)
    assert stage.server.get(path).json()["metadata"]["resourceVersion"] == made.json()["metadata"]["resourceVersion"]
    said = stage.condition("Published")
    assert (said["status"], said["reason"]) == ("False", "NameTaken")
    assert f"{kind.name} {name} is there and not of this ModelDeployment -> delete it, or rename" in said["message"]
    assert stage.ready()["status"] == "True" and stage.events().count("NameTaken") == 1
    for other, other_name, _ in OTHERS:
        found = stage.server.get(other.path(stage.namespace, other_name)).json()
        assert ("ownerReferences" in found["metadata"]) is (other is not kind)

    assert stage.server.delete(about, stage.namespace).is_success
    await stage.once()
    assert stage.condition("Published")["status"] == "True"
    assert stage.server.get(path).json()["metadata"]["ownerReferences"][0]["name"] == "m"


async def test_its_own_object_without_an_owner_is_taken_back(stage: Stage) -> None:
    """What a deletion without dependents left has the operator's labels, and is no person's."""
    stage.create(1)
    await stage.once()
    path = sight.SERVICE.path(stage.namespace, "m")
    uid = stage.server.get(path).json()["metadata"]["uid"]
    assert stage.server.merge(path, {"metadata": {"ownerReferences": None}}).is_success
    await stage.once()
    found = stage.server.get(path).json()["metadata"]
    assert found["uid"] == uid and found["ownerReferences"][0]["name"] == "m"


async def test_an_object_of_the_deployment_before_is_taken_over(stage: Stage) -> None:
    """What has not gone yet with the deployment of the same name: nobody is told that the name is taken."""
    stage.create(0)
    await stage.once()
    path = sight.SERVICE.path(stage.namespace, "m")
    before = stage.deployment()["metadata"]
    about = {"apiVersion": "penstock.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "m"}}
    assert stage.server.delete(about, stage.namespace).is_success
    assert stage.server.get(path).json()["metadata"]["ownerReferences"][0]["uid"] == before["uid"], (
        "nobody collects here"
    )
    stage.create(0)
    await stage.once()
    uid = stage.deployment()["metadata"]["uid"]
    assert [each["uid"] for each in stage.server.get(path).json()["metadata"]["ownerReferences"]] == [uid]
    assert all(each["type"] != "Published" for each in stage.deployment()["status"]["conditions"])


async def test_what_the_server_refuses_is_said(stage: Stage) -> None:
    """The cause and the next step; workers, budgets and the status are as ever."""
    forbid(stage, "count/services")
    await serving(stage)
    with pytest.raises(errors.TerminalError, match="exceeded quota"):
        await stage.once()
    said = stage.condition("Published")
    assert (said["status"], said["reason"]) == ("False", "QuotaExceeded")
    assert "Service m: " in said["message"] and "-> raise the namespace's ResourceQuota" in said["message"]
    assert stage.ready()["status"] == "True" and stage.events().count("QuotaExceeded") == 1
    assert stage.server.get(sight.BUDGET.path(stage.namespace, "m-unified")).is_success
    assert stage.server.get(sight.SLICE.path(stage.namespace, "m-ipv4-0")).is_success
    allow(stage)
    await stage.once()
    assert stage.condition("Published")["reason"] == "AllKept"
    assert stage.server.get(sight.SERVICE.path(stage.namespace, "m")).is_success


async def test_a_revision_that_is_refused_is_said(stage: Stage) -> None:
    """No worker is made of what cannot be kept, the rest is, and it goes on when the server takes it."""
    forbid(stage, "count/controllerrevisions.apps")
    stage.create(1)
    with pytest.raises(errors.TerminalError, match="exceeded quota"):
        await stage.once()
    assert stage.ready()["reason"] == "QuotaExceeded" and "ControllerRevision" in stage.ready()["message"]
    assert stage.pods() == {} and stage.server.get(sight.SERVICE.path(stage.namespace, "m")).is_success
    allow(stage)
    await stage.once()
    assert set(stage.pods()) == {"m-0"}


async def test_what_somebody_changes_is_put_right_and_what_is_added_stays(stage: Stage) -> None:
    """Fields that the operator sets are its own; others' labels, fields and ports stay, but not addresses in its slices."""
    stage.create(1)
    await stage.once()
    stage.pod_says("m-0", "Running", ready=True, podIP="10.0.0.1", podIPs=[{"ip": "10.0.0.1"}])
    await stage.register("m-0")
    await stage.once()
    service, addresses = sight.SERVICE.path(stage.namespace, "m"), sight.SLICE.path(stage.namespace, "m-ipv4-0")
    (own,) = stage.server.get(service).json()["spec"]["ports"]
    port = {"name": "mine", "port": 9, "targetPort": 9, "protocol": "TCP"}
    ports = [own | {"targetPort": 7}, port]
    change = {"metadata": {"labels": {"mine": "yes"}}, "spec": {"ports": ports, "sessionAffinity": "ClientIP"}}
    assert stage.server.merge(service, change).is_success
    (endpoint,) = stage.server.get(addresses).json()["endpoints"]
    another = {"addresses": ["10.0.0.9"], "conditions": {"ready": True}}
    assert stage.server.merge(addresses, {"endpoints": [endpoint, another]}).is_success
    await stage.once()
    found = stage.server.get(service).json()
    assert found["spec"]["ports"] == [own, port]
    assert (found["metadata"]["labels"]["mine"], found["spec"]["sessionAffinity"]) == ("yes", "ClientIP")
    assert stage.server.get(addresses).json()["endpoints"] == [endpoint]
    await stage.once()
    assert stage.server.get(service).json()["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]

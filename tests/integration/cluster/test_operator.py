"""The operator on a real API server. Nothing schedules or runs Pods here: the tests write what a kubelet would."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
import yaml

from operators import build, cache, deployments, fleets, kube, pods, profiles, published, refused, sight, unbuilt
from operators.policy import workers
from penstock.api.crds import acceleratorprofile, modeldeployment, schema
from penstock.runtime import errors, processes
from tests.cluster import api
from tests.support import custom_resources as support
from tests.support.stage import Stage


async def test_workers_are_created_and_become_ready(stage: Stage) -> None:
    """Pods come with the first pass; the deployment is Ready when Pods and registry say so."""
    stage.create()
    assert not await stage.once()
    assert sorted(stage.pods()) == ["m-0", "m-1"]
    assert stage.ready()["reason"] == "WorkersStarting"
    await stage.serve("m-0")
    await stage.once()
    assert stage.ready()["message"] == "1 of 2 unified workers are ready"
    await stage.serve("m-1")
    assert await stage.once()
    assert (stage.ready()["status"], stage.ready()["reason"]) == ("True", "AllReady")
    status = stage.deployment()["status"]
    assert (status["workers"], status["replicas"], status["readyReplicas"]) == ("2/2", 2, 2)
    assert status["observedGeneration"] == stage.deployment()["metadata"]["generation"] == 1


async def test_a_pass_without_a_change_writes_nothing(stage: Stage) -> None:
    """A second pass leaves every object at its version."""
    stage.create()
    await stage.once()
    await stage.once()
    before = stage.deployment()["metadata"]["resourceVersion"], stage.pods()
    assert stage.events() == ["WorkerCreated", "WorkerCreated", "WorkersStarting"]
    await stage.clock.advance(600)
    await stage.once()
    assert (stage.deployment()["metadata"]["resourceVersion"], stage.pods()) == before
    assert stage.events() == ["WorkerCreated", "WorkerCreated", "WorkersStarting"]


async def test_scaling_in_drains_before_it_deletes(stage: Stage) -> None:
    """The worker is told in the registry and keeps its Pod until it has left; the other one serves on."""
    stage.create()
    await stage.once()
    await stage.serve("m-0")
    leaving = await stage.serve("m-1")
    stage.scale(1)
    await stage.once()
    assert await stage.states() == {"m-0": "ready", "m-1": "draining"}
    assert sorted(stage.pods()) == ["m-0", "m-1"]
    await stage.once()
    assert sorted(stage.pods()) == ["m-0", "m-1"]
    await stage.registry.deregister("m-1", leaving)
    await stage.once()
    assert sorted(stage.pods()) == ["m-0"]
    assert await stage.once()
    assert (await stage.states())["m-0"] == "ready"
    assert [each for each in stage.events() if each.startswith("WorkerD")] == ["WorkerDeleted", "WorkerDraining"]


async def test_the_deadline_ends_a_drain(stage: Stage) -> None:
    """A worker whose streams do not end goes when its time is over, by an operator that knows nothing of its beginning."""
    stage.create(drain={"timeout": "90s"})
    await stage.once()
    for name in ("m-0", "m-1"):
        await stage.serve(name)
    stage.scale(0)
    await stage.once()
    await stage.clock.advance(89)
    await stage.once()
    assert len(stage.pods()) == 2
    await stage.clock.advance(1)
    await stage.once()
    assert stage.pods() == {}


async def test_two_operators_make_nothing_twice(stage: Stage) -> None:
    """Passes at the same time, as under two leaders, end with one Pod of each name."""
    stage.create(replicas=5)
    await asyncio.gather(*(stage.once() for _ in range(4)))
    assert sorted(stage.pods()) == [f"m-{index}" for index in range(5)]


async def test_a_pod_that_changed_since_is_not_deleted(stage: Stage) -> None:
    """A deletion that was decided on an older sight of a Pod is refused."""
    stage.create(replicas=1)
    await stage.once()
    meta = stage.pods()["m-0"]["metadata"]
    await stage.serve("m-0")
    path = sight.POD.path(stage.namespace, "m-0")
    assert not await stage.client.delete(path, meta["uid"], meta["resourceVersion"])
    assert not await stage.client.delete(path, "another", stage.pods()["m-0"]["metadata"]["resourceVersion"])
    assert "m-0" in stage.pods()


async def test_what_blocks_a_worker_is_in_the_condition(stage: Stage) -> None:
    """A Pod that no node takes and one whose image is not there: the condition says both causes."""
    stage.create()
    await stage.once()
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    status = {
        "name": "worker",
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": waiting},
    }
    stage.pod_says("m-0", "Pending", containerStatuses=[status])
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    stage.server.merge(f"{sight.POD.path(stage.namespace, 'm-1')}/status", {"status": {"conditions": [unscheduled]}})
    await stage.once()
    assert stage.ready()["reason"] == "WorkersBlocked"
    [said] = stage.notes("WorkersBlocked")
    for text in ("ImagePullBackOff: not found -> check the image", "Unschedulable: 0/3 nodes -> add nodes"):
        assert text in stage.ready()["message"] and text in said


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (
            {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}},
            'CreateContainerConfigError: secret "hub" not found -> make the Secret or key that it names',
        ),
        (
            {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}},
            "-> read why with `kubectl logs m-0 --previous --all-containers`",
        ),
        (
            {"waiting": {"reason": "ErrImagePull", "message": "no such host"}},
            "ErrImagePull: no such host -> check the image's name and spec.placement.imagePullSecrets",
        ),
        (
            {"waiting": {"reason": "InvalidImageName", "message": "couldn't parse image"}},
            "-> correct spec.engine.image",
        ),
    ],
    ids=["missing Secret", "crash loop", "image", "image's name"],
)
async def test_what_keeps_a_container_from_running_is_said_at_once(
    stage: Stage, state: dict[str, Any], cause: str
) -> None:
    """One pass after the kubelet has said it: condition and event name the cause and the next step, and once only."""
    stage.create(1)
    await stage.once()
    status = {"name": "worker", "image": "x", "imageID": "", "ready": False, "restartCount": 2, "state": state}
    stage.pod_says("m-0", "Pending", containerStatuses=[status])
    await stage.once()
    assert stage.ready()["reason"] == "WorkersBlocked" and cause in stage.ready()["message"]
    await stage.once()
    [said] = stage.notes("WorkersBlocked")
    assert cause in said


async def test_a_worker_that_no_node_can_hold_is_said(stage: Stage) -> None:
    """A deployment that makes no Pod says what it lacks, and what to change."""
    spec = {"resourceName": "nvidia.com/gpu", "memory": "80Gi", "perNode": 1}
    about = {"apiVersion": "penstock.dev/v1alpha1", "kind": "AcceleratorProfile", "metadata": {"name": "single"}}
    assert stage.server.apply({**about, "spec": spec}, "").is_success
    stage.create(accelerators=[{"profile": "single"}], parallelism={"tensor": 2})
    with pytest.raises(errors.TerminalError):
        await stage.once()
    assert stage.pods() == {}
    assert stage.ready()["reason"] == "Unsupported"
    assert "needs 2 accelerators on a node, and single has 1" in stage.ready()["message"]


async def test_what_an_older_definition_took_is_said(stage: Stage) -> None:
    """A stored object that today's definition would refuse: condition and event name the field, workers that run stay."""
    stage.create(1)
    await stage.once()
    definition = yaml.safe_load(yaml.safe_dump(schema.definition(modeldeployment.ModelDeployment)))
    older = copy.deepcopy(definition)
    version = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    version["properties"]["spec"]["properties"]["engine"].pop("x-kubernetes-validations")
    try:
        assert stage.server.apply(older).is_success
        path = sight.DEPLOYMENT.path(stage.namespace, "m")
        change = {"spec": {"engine": {"kind": "sglang"}, "model": {"source": {"path": "/models/tiny"}}}}
        async with asyncio.timeout(20):
            while not stage.server.merge(path, change).is_success:
                await asyncio.sleep(0.05)
    finally:
        assert stage.server.apply(definition).is_success
    for _ in range(2):
        with pytest.raises(errors.TerminalError, match=r"engine.*must be given where kind is sglang"):
            await stage.once()
    assert (stage.ready()["status"], stage.ready()["reason"]) == ("False", "Invalid")
    assert "must be given where kind is sglang" in stage.ready()["message"]
    assert stage.condition("Progressing") and stage.deployment()["status"]["observedGeneration"] == 2
    assert set(stage.pods()) == {"m-0"} and len(stage.notes("Invalid")) == 1


DEPLOYMENTS = [each for each in support.valid() if each["kind"] == "ModelDeployment"]


@pytest.mark.parametrize("document", DEPLOYMENTS, ids=lambda each: each["metadata"]["name"])
async def test_the_server_knows_every_field_of_every_example(stage: Stage, document: dict[str, Any]) -> None:
    """The Pods of each example and role are taken by the API server, which is asked to refuse unknown fields."""
    document = copy.deepcopy(document)
    for each in ("priorityClassName", "runtimeClassName"):
        document["spec"].get("placement", {}).pop(each, None)
    deployment = modeldeployment.ModelDeployment.written(
        document | {"metadata": {"name": "m", "namespace": stage.namespace, "uid": "u-1"}}
    )
    spec = {"resourceName": "nvidia.com/gpu", "memory": "80Gi", "perNode": 16}
    profile = acceleratorprofile.AcceleratorProfile.written({"metadata": {"name": "any"}, "spec": spec})
    for role in deployment.spec.roles:
        pod = build.pod(deployment, workers.Create(f"m-{role.name}-0", role.name, "r1", "any"), stage.host, profile)
        made = stage.server.create(pod, stage.namespace, dry_run=True)
        assert made.is_success, made.text


async def test_a_refused_pod_is_said(stage: Stage) -> None:
    """Where the API server refuses a worker's Pod, the condition has the server's own words."""
    stage.create(placement={"priorityClassName": "nobody-made-it"})
    with pytest.raises(errors.TerminalError):
        await stage.once()
    assert stage.ready()["reason"] == "CreationRefused"
    assert "no PriorityClass with name nobody-made-it was found" in stage.ready()["message"]


@pytest.mark.parametrize("resource", unbuilt.KINDS, ids=lambda each: each.__name__)
async def test_kinds_without_a_controller_say_so(stage: Stage, resource: Any) -> None:
    """They report Ready=False with reason NotYetImplemented, once."""
    document = next(each for each in support.valid() if each["kind"] == resource.__name__)
    document["metadata"] = {"name": stage.namespace[-40:]}
    assert stage.server.create(document, stage.namespace).is_success
    name = document["metadata"]["name"]
    assert await unbuilt.reconcile(stage.client, stage.clock, resource, stage.namespace, name)
    path = refused.path_of(resource.KIND, stage.namespace, name)
    condition = stage.server.get(path).json()["status"]["conditions"][0]
    assert (condition["status"], condition["reason"]) == ("False", "NotYetImplemented")
    assert not await unbuilt.reconcile(stage.client, stage.clock, resource, stage.namespace, name)
    # One that an older definition took.
    known = stage.server.get(path).json()
    known["spec"] = "as it was"
    with pytest.raises(errors.TerminalError, match=r"spec: .* -> correct it"):
        await unbuilt.reconcile(stage.client, stage.clock, resource, stage.namespace, name, known)
    condition = stage.server.get(path).json()["status"]["conditions"][0]
    assert (condition["status"], condition["reason"]) == ("False", "Invalid")
    assert "this version takes no such" in condition["message"]
    stage.server.delete(document, stage.namespace)


async def test_a_profile_that_an_older_definition_took_says_so(stage: Stage) -> None:
    """Ready is False with the reason Invalid, and each pass says it again to the log."""
    document = next(each for each in support.valid() if each["kind"] == "AcceleratorProfile")
    document["metadata"] = {"name": stage.namespace[-40:]}
    assert stage.server.create(document, "").is_success
    name = document["metadata"]["name"]
    path = sight.PROFILE.path("", name)
    copies = cache.Informer(stage.client, stage.clock, cache.Store(), [])
    known = stage.server.get(path).json()
    known["spec"] = "as it was"
    copies.take(known)
    with pytest.raises(errors.TerminalError, match=r"spec: .* -> correct it"):
        await profiles.Profiles(stage.client, stage.clock, copies, copies).reconcile(name)
    [condition] = stage.server.get(path).json()["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Ready", "False", "Invalid")
    stage.server.delete(document, "")


async def test_a_server_that_is_away_is_worth_another_try(access: api.Access) -> None:
    """No connection is a retryable error; a refusal for lack of rights is not."""
    away = kube.KubeClient(f"https://127.0.0.1:{processes.free_port()}", access.ssl_context(), "x")
    with pytest.raises(errors.RetryableError):
        await away.get("/api")
    await away.close()
    stranger = kube.KubeClient(access.server, access.ssl_context(), "x")
    with pytest.raises(errors.TerminalError, match="401"):
        await stranger.get("/api/v1/pods")
    await stranger.close()


async def test_a_deployment_that_is_gone_is_left_alone(stage: Stage) -> None:
    """A pass over a name that nothing has does nothing."""
    assert await stage.once()
    assert stage.pods() == {}


async def test_what_belongs_to_a_deployment_follows_it(stage: Stage) -> None:
    """A budget for each role, a Service and its addresses come with it, change with it, and mend what others change."""
    stage.create(roles=[{"name": "prefill"}, {"name": "decode"}], replicas=1)
    await stage.once()
    await stage.once()
    incarnations = {}
    for name in stage.pods():
        stage.pod_says(name, "Running", ready=True, podIP="10.0.0.1", podIPs=[{"ip": "10.0.0.1"}])
        incarnations[name] = await stage.register(name)
    await stage.once()
    budgets = sight.BUDGET.path(stage.namespace)
    names = [each["metadata"]["name"] for each in stage.server.get(budgets).json()["items"]]
    assert sorted(names) == ["m-decode", "m-prefill"]
    assert stage.server.get(sight.SERVICE.path(stage.namespace, "m")).json()["spec"]["clusterIP"] == "None"
    [found] = stage.server.get(sight.SLICE.path(stage.namespace)).json()["items"]
    assert [each["targetRef"]["name"] for each in found["endpoints"]] == ["m-decode-0", "m-prefill-0"]
    assert stage.server.merge(f"{budgets}/m-decode", {"spec": {"minAvailable": 7}}).is_success
    await stage.once()
    assert stage.server.get(f"{budgets}/m-decode").json()["spec"]["minAvailable"] == 0
    # One of a role that an older version let go.
    former = stage.server.get(f"{budgets}/m-decode").json()
    meta = {key: former["metadata"][key] for key in ("labels", "ownerReferences")} | {"name": "m-encode"}
    former = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": former["spec"]}
    assert stage.server.create(former, stage.namespace).is_success
    await stage.once()
    names = [each["metadata"]["name"] for each in stage.server.get(budgets).json()["items"]]
    assert sorted(names) == ["m-decode", "m-prefill"]
    for name in list(stage.pods()):
        stage.pod_says(name, "Running", ready=False)
    for name, incarnation in incarnations.items():
        await stage.registry.deregister(name, incarnation)
    await stage.once()
    assert stage.server.get(sight.SLICE.path(stage.namespace)).json()["items"] == []


async def test_a_quota_is_named_with_the_next_step(stage: Stage) -> None:
    """Where the namespace has no room, one worker is there, and the condition says what to raise."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}}
    assert stage.server.create(quota, stage.namespace).is_success
    # What the controller-manager would count.
    counted = {"status": {"hard": {"pods": "1"}, "used": {"pods": "0"}}}
    path = f"/api/v1/namespaces/{stage.namespace}/resourcequotas/few/status"
    assert stage.server.merge(path, counted).is_success
    stage.create()
    with pytest.raises(errors.TerminalError):
        await stage.once()
    assert sorted(stage.pods()) == ["m-0"]
    assert stage.ready()["reason"] == "QuotaExceeded"
    [noted] = stage.notes("QuotaExceeded")
    for said in (stage.ready()["message"], noted):
        assert "exceeded quota: few" in said and "-> raise the namespace's" in said


async def test_a_creation_that_is_refused_holds_up_no_drain(stage: Stage) -> None:
    """Two workers of one role are to become one, and one of the other two, in a full namespace: the first makes the room."""
    roles = [{"name": "decode", "replicas": 1}, {"name": "prefill", "replicas": 2}]
    stage.create(replicas=1, roles=roles)
    await stage.once()
    for name in ("m-decode-0", "m-prefill-0", "m-prefill-1"):
        await stage.serve(name)
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"}, "spec": {"hard": {"pods": "3"}}}
    assert stage.server.create(quota, stage.namespace).is_success
    counted = {"status": {"hard": {"pods": "3"}, "used": {"pods": "3"}}}
    path = f"/api/v1/namespaces/{stage.namespace}/resourcequotas/full/status"
    assert stage.server.merge(path, counted).is_success
    roles = [{"name": "decode", "replicas": 2}, {"name": "prefill", "replicas": 1}]
    change = {"spec": {"roles": roles}}
    assert stage.server.merge(sight.DEPLOYMENT.path(stage.namespace, "m"), change).is_success
    with pytest.raises(errors.TerminalError):
        await stage.once()
    assert stage.ready()["reason"] == "QuotaExceeded"
    assert sorted((await stage.states()).values()) == ["draining", "ready", "ready"]


async def test_nothing_is_replaced_by_what_cannot_be_made(stage: Stage) -> None:
    """Pods of a new revision are refused: a worker that still loads is kept, which would be the first to go."""
    stage.create(2)
    await stage.once()
    await stage.serve("m-0")
    change = {"spec": {"placement": {"priorityClassName": "nobody-has-made-it"}}}
    assert stage.server.merge(sight.DEPLOYMENT.path(stage.namespace, "m"), change).is_success
    for _ in range(3):
        with pytest.raises(errors.TerminalError):
            await stage.once()
    assert sorted(stage.pods()) == ["m-0", "m-1"]
    assert await stage.states() == {"m-0": "ready"}


async def test_a_worker_without_a_place_is_tried_on_the_next_hardware(stage: Stage) -> None:
    """After its wait the Pod is made anew on the next kind, and the status says where new workers go."""
    spec = {"resourceName": "nvidia.com/gpu", "memory": "80Gi"}
    for name in ("first", "second"):
        profile = {"apiVersion": "penstock.dev/v1alpha1", "kind": "AcceleratorProfile", "metadata": {"name": name}}
        wanted = {**spec, "nodeSelector": {"gpu": name}}
        assert stage.server.apply({**profile, "spec": wanted}, "").is_success
    choices = [{"profile": "first", "fallbackAfter": "1m"}, {"profile": "second"}]
    stage.create(replicas=1, accelerators=choices)
    await stage.once()
    assert stage.pods()["m-0"]["spec"]["nodeSelector"] == {"gpu": "first"}
    since = pods.timestamp(stage.clock.now_s())
    blocked = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": since}
    path = f"{sight.POD.path(stage.namespace, 'm-0')}/status"
    assert stage.server.merge(path, {"status": {"conditions": [blocked | {"message": "0/3 nodes"}]}}).is_success
    await stage.clock.advance(59)
    await stage.once()
    assert stage.pods()["m-0"]["spec"]["nodeSelector"] == {"gpu": "first"}
    await stage.clock.advance(1)
    for _ in range(3):
        await stage.once()
    [found] = stage.pods().values()
    assert found["spec"]["nodeSelector"] == {"gpu": "second"}
    assert stage.deployment()["status"]["roles"][0]["accelerator"] == "second"


async def test_what_a_deleted_deployment_left_is_adopted(stage: Stage) -> None:
    """Workers that a deletion without their dependents left go on under the deployment of the same name."""
    stage.create()
    await stage.once()
    before = {name: each["metadata"]["uid"] for name, each in stage.pods().items()}
    for kind, names in ((sight.POD, before), (sight.REVISION, kept(stage))):
        for name in names:
            path = kind.path(stage.namespace, name)
            assert stage.server.merge(path, {"metadata": {"ownerReferences": None}}).is_success
    document = {"apiVersion": "penstock.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "m"}}
    assert stage.server.delete(document, stage.namespace).is_success
    stage.create()
    await stage.once()
    uid = stage.deployment()["metadata"]["uid"]
    assert {name: each["metadata"]["uid"] for name, each in stage.pods().items()} == before
    assert all(each["metadata"]["ownerReferences"][0]["uid"] == uid for each in stage.pods().values())
    assert len(kept(stage)) == 1


def kept(stage: Stage) -> list[str]:
    """Names of the revisions."""
    return [each["metadata"]["name"] for each in stage.server.get(sight.REVISION.path(stage.namespace)).json()["items"]]


async def test_a_name_that_another_has_is_said(stage: Stage) -> None:
    """Somebody else's Pod of a worker's name stays as it is, and the condition says what to do."""
    container = {"name": "c", "image": "x"}
    other = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m-0"}, "spec": {"containers": [container]}}
    assert stage.server.create(other, stage.namespace).is_success
    stage.create()
    with pytest.raises(errors.TerminalError):
        await stage.once()
    assert stage.ready()["reason"] == "NameTaken"
    assert "Pod m-0 is there and not of this ModelDeployment -> delete it, or rename" in stage.ready()["message"]
    assert "ownerReferences" not in stage.pods()["m-0"]["metadata"]


async def test_the_workers_of_a_former_deployment_are_waited_for(stage: Stage) -> None:
    """Deleted and applied again while the old workers still drain: theirs is the name, and the condition says to wait."""
    stage.create()
    await stage.once()
    document = {"apiVersion": "penstock.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "m"}}
    assert stage.server.delete(document, stage.namespace).is_success
    stage.create()
    with pytest.raises(errors.TerminalError):
        await stage.once()
    assert stage.ready()["reason"] == "FormerWorkersEnd"
    assert "still ends -> wait" in stage.ready()["message"]
    for name, each in stage.pods().items():
        assert stage.server.delete({"apiVersion": "v1", "kind": "Pod"} | each, stage.namespace).is_success, name
    await stage.once()
    owner = stage.deployment()["metadata"]["uid"]
    assert {each["metadata"]["ownerReferences"][0]["uid"] for each in stage.pods().values()} == {owner}


async def test_a_deployment_that_is_gone_is_taken_back_as_often_as_it_takes(stage: Stage) -> None:
    """While Redis is away the pass is made again: nobody else would ever take it out of the gateways' list."""

    class Unsteady(published.InMemory):
        away = True

        async def remove(self, namespace: str, name: str) -> None:
            if self.away:
                raise errors.RetryableError("redis is away")
            await super().remove(namespace, name)

    stage.create()
    told = Unsteady()
    looking, known = sight.Live(stage.client), fleets.Asked(stage.registry)
    operator = deployments.DeploymentReconciler(stage.client, looking, known, stage.clock, stage.host, published=told)
    await operator.reconcile(stage.namespace, "m")
    document = {"apiVersion": "penstock.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "m"}}
    assert stage.server.delete(document, stage.namespace).is_success
    with pytest.raises(errors.RetryableError):
        await operator.reconcile(stage.namespace, "m")
    assert told.told
    told.away = False
    assert (await operator.reconcile(stage.namespace, "m")).settled and not told.told

"""`penstock doctor`: what is seen of a cluster, and what is said of it. One row for each thing that can be wrong."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

from controller.doctor import checks
from controller.doctor.sight import Finding, Gateway, Level, Right, Sight
from router.server import degraded
from tests.support import shell

NOW_S = 1_800_000_000.0
Object = dict[str, Any]
INSTANCE = {"app.kubernetes.io/instance": "pen"}


def definition(name: str, text: str = "new", established: str = "True") -> Object:
    """A definition whose schema says `text`."""
    versions = [{"name": "v1alpha1", "schema": {"openAPIV3Schema": {"description": text}}}]
    status = {"conditions": [{"type": "Established", "status": established}]}
    return {"metadata": {"name": name}, "spec": {"versions": versions}, "status": status}


def node(name: str = "n0", ready: str = "True", labels: Object | None = None, **allocatable: str) -> Object:
    """A node; `nvidia=8` gives it GPUs."""
    found = {"cpu": "8", "memory": "32Gi", "pods": "110"}
    if "nvidia" in allocatable:
        found["nvidia.com/gpu"] = allocatable["nvidia"]
    status = {"conditions": [{"type": "Ready", "status": ready}], "allocatable": found}
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": {}, "status": status}


def workload(component: str, wanted: int = 2, ready: int = 2, updated: int | None = None, **spec: Any) -> Object:
    """A Deployment of the chart."""
    env = [
        {"name": "PENSTOCK_GATEWAY_REDIS_URL", "valueFrom": {"secretKeyRef": {"name": "penstock-redis", "key": "url"}}}
    ]
    pod = {"containers": [{"name": component, "env": env}], "serviceAccountName": f"penstock-{component}"}
    return {
        "metadata": {
            "name": f"penstock-{component}",
            "namespace": "penstock",
            "labels": {"app.kubernetes.io/component": component, **INSTANCE},
        },
        "spec": {"replicas": wanted, "template": {"spec": pod}, **spec},
        "status": {"readyReplicas": ready, "updatedReplicas": wanted if updated is None else updated},
    }


def agents(wanted: int, ready: int, updated: int | None = None) -> list[Object]:
    """The workloads of a release with agents of nodes: their DaemonSet has its numbers in its status."""
    found = workload("node-agent")
    del found["spec"]["replicas"]
    found["status"] = {
        "observedGeneration": 1,
        "desiredNumberScheduled": wanted,
        "numberReady": ready,
        "updatedNumberScheduled": wanted if updated is None else updated,
    }
    return [*WELL.workloads, found]


def abroad(namespaces: str | None = None) -> Object:
    """Another release's operator, of an older chart or with the namespaces that it names."""
    found = workload("operator")
    found["metadata"] |= {"namespace": "other"}
    if namespaces is not None:
        found["metadata"]["annotations"] = {"penstock.dev/namespaces": namespaces}
    return found


def needing(component: str, volume: str, secret: str) -> list[Object]:
    """The workloads of a release of which one mounts a Secret."""
    found = copy.deepcopy(WELL.workloads) or []
    for each in found:
        if each["metadata"]["labels"]["app.kubernetes.io/component"] == component:
            each["spec"]["template"]["spec"]["volumes"] = [{"name": volume, "secret": {"secretName": secret}}]
    return found


def pod(component: str, **status: Any) -> Object:
    """A Pod of the chart."""
    return {
        "metadata": {"name": f"{component}-x", "labels": {"app.kubernetes.io/component": component, **INSTANCE}},
        "status": status,
    }


def waiting(reason: str, message: str, **last: Any) -> list[Object]:
    """A container that waits."""
    return [{"state": {"waiting": {"reason": reason, "message": message}}, "lastState": last}]


def lease(holder: str = "operator-a", age_s: float = 3.0) -> Object:
    """The operator's Lease."""
    import datetime

    renewed = datetime.datetime.fromtimestamp(NOW_S - age_s, datetime.UTC).isoformat()
    return {
        "metadata": {"name": "penstock-operator"},
        "spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 10},
    }


def model(ready: str | None = "True", generation: int = 1, observed: int = 1, **spec: Any) -> Object:
    """A ModelDeployment."""
    conditions = []
    if ready is not None:
        conditions = [{"type": "Ready", "status": ready, "reason": "WorkersBlocked", "message": "0 of 2 ready: no GPU"}]
    return {
        "metadata": {"name": "m", "namespace": "models", "generation": generation},
        "spec": {"model": {"name": "m"}, **spec},
        "status": {"conditions": conditions, "observedGeneration": observed},
    }


def told(kind: str, reason: str, message: str) -> Object:
    """A ready ModelDeployment with a condition that does not hold."""
    found = model()
    conditions = [
        *found["status"]["conditions"],
        {"type": kind, "status": "False", "reason": reason, "message": message},
    ]
    return found | {"status": found["status"] | {"conditions": conditions}}


def blocked(
    kind: str, status: str, reason: str, message: str = "0 of 1: ErrImagePull, no GPU -> add nodes for the deployment"
) -> Object:
    """A ModelDeployment with a condition that gives a step."""
    found = model()
    said = {"type": kind, "status": status, "reason": reason, "message": message}
    before = [each for each in found["status"]["conditions"] if each["type"] != kind]
    return found | {"status": found["status"] | {"conditions": [*before, said]}}


def ray_operator(replicas: int = 1, ready: int = 0) -> Object:
    """KubeRay's Deployment."""
    about = {"name": "kuberay", "namespace": "ray"}
    return {"metadata": about, "spec": {"replicas": replicas}, "status": {"readyReplicas": ready}}


def claim(name: str, phase: str = "Bound", **spec: Any) -> Object:
    """Of the bundled Redis."""
    labels = {"app.kubernetes.io/name": "penstock", **INSTANCE}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"phase": phase}}


def accelerator(resource: str = "nvidia.com/gpu", **selector: str) -> Object:
    """An AcceleratorProfile."""
    return {"metadata": {"name": "h100"}, "spec": {"resourceName": resource, "nodeSelector": selector}}


DEFAULT_CLASS = {"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}
WELL = Sight(
    namespace="penstock",
    now_s=NOW_S,
    version=(1, 36),
    definitions={"x": definition("x")},
    wanted_definitions={"x": definition("x")},
    other_definitions=frozenset({"rayclusters.ray.io", "rayservices.ray.io"}),
    kuberay=[ray_operator(ready=1)],
    rights=(Right("list", "", "pods", "", True), Right("update", "coordination.k8s.io", "leases", "penstock", True)),
    nodes=[node()],
    profiles=[],
    models=[model()],
    storage_classes=[DEFAULT_CLASS],
    metrics_api=True,
    autoscalers=[],
    workloads=[
        *(workload(each) for each in ("gateway", "controller", "operator")),
        workload("redis", 1, 1, volumeClaimTemplates=[{}]),
    ],
    pods=[],
    elsewhere=[],
    claims=[claim("data")],
    leases=[lease()],
    secrets=frozenset({"penstock-redis"}),
    gateways=(Gateway("gw-a", True), Gateway("gw-b", True)),
)


def unwell(sight: Sight) -> list[Finding]:
    """What is not well."""
    return [each for each in checks.run(sight) if each.level is not Level.OK]


def test_a_cluster_that_lacks_nothing() -> None:
    """Every check has looked, and none has a remark."""
    assert unwell(WELL) == []
    assert {each.check for each in checks.run(WELL)} == {
        "version", "definitions", "rights", "accelerators", "kuberay", "storage", "release", "operator", "redis",
        "gateways", "models", "metrics", "routes",
    }  # fmt: skip


WAITING = pod("", containerStatuses=waiting("ErrImagePull", "no")) | {
    "metadata": {"name": "m-2", "namespace": "models", "labels": {"penstock.dev/deployment": "m"}}
}
RAY = {"hosting": "RayServe"}
GPU = {"accelerators": [{"profile": "h100"}]}


@pytest.mark.parametrize(
    ("change", "level", "said", "mend"),
    [
        ({"version": (1, 30)}, "error", "Kubernetes 1.30 is older than 1.31", "kubeadm upgrade plan"),
        ({"definitions": {}}, "error", "x is not there", "kubectl apply --server-side"),
        ({"definitions": {"x": definition("x", established="False")}}, "error", "x is not served", "describe crd x"),
        ({"definitions": {"x": definition("x", "old")}}, "warning", "x is of another version", "--force-conflicts"),
        (
            {"rights": (Right("delete", "", "pods", "", False),)},
            "error", "the operator may not delete pods", "helm upgrade pen helm/penstock -n penstock",
        ),
        (
            {"rights": (Right("update", "coordination.k8s.io", "leases", "penstock", False),)},
            "error", "may not update leases.coordination.k8s.io in penstock", "helm upgrade pen helm/penstock -n penstock",
        ),
        (
            {"rights": tuple(Right("list", "", f"r{number}", "", False) for number in range(9))},
            "error", "list r0, list r1, list r2, list r3, list r4, and 4 more", "helm upgrade pen helm/penstock -n penstock",
        ),
        (
            {"workloads": [each for each in WELL.workloads or () if each["metadata"]["name"] != "penstock-operator"], "elsewhere": [abroad("x")]},
            "warning", "there is no operator", "--set operator.enabled=true",
        ),
        (
            {"workloads": agents(3, 0)},
            "error", "node-agent: 0 of 3 ready: no Pod says why",
            "describe daemonset penstock-node-agent  # says why; where Pod Security forbids it, kubectl label namespace penstock",
        ),
        (
            {"workloads": agents(3, 2), "pods": [pod("node-agent", containerStatuses=waiting("ErrImagePull", "no"))]},
            "warning", "node-agent: 2 of 3 ready: ErrImagePull", "--set images.registry=REGISTRY",
        ),
        (
            {
                "workloads": agents(3, 2, 1),
                "pods": [pod("node-agent", containerStatuses=waiting("CrashLoopBackOff", "x", terminated={"exitCode": 2}))],
            },
            "warning", "node-agent: 2 of 3 ready: CrashLoopBackOff", "helm rollback pen -n penstock",
        ),
        (
            {"workloads": agents(0, 0)},
            "warning", "node-agent: no node is one that its nodeSelector", "--set nodeAgent.pods.nodeSelector=null",
        ),
        ({"nodes": [node(), node("n1", "False")]}, "warning", "not ready: n1", "describe node n1"),
        (
            {"nodes": [node(), node("n1") | {"spec": {"unschedulable": True}}]},
            "warning", "cordoned: n1", "kubectl uncordon n1",
        ),
        ({"nodes": []}, "error", "no node takes Pods", "get nodes"),
        ({"profiles": [accelerator()]}, "warning", "its nodes have no nvidia.com/gpu: the device plugin", "nvdp"),
        ({"profiles": [accelerator(gpu="h100")]}, "warning", "h100: no node has gpu=h100", "get nodes -l gpu=h100"),
        ({"models": [model(**GPU)]}, "error", "asks for AcceleratorProfile h100, which is not there", "get accel"),
        (
            {"models": [model(**RAY)], "other_definitions": frozenset()},
            "error", "rayclusters.ray.io, rayservices.ray.io not there, and m needs KubeRay", "kuberay-operator",
        ),
        ({"models": [model(**RAY)], "kuberay": []}, "warning", "no Deployment of its operator", "helm install kuberay"),
        (
            {"models": [model(**RAY)], "kuberay": [ray_operator(ready=0)]},
            "error", "KubeRay's operator in ray has no Pod that is ready", "-n ray rollout restart deployment kuberay",
        ),
        (
            {"kuberay": [ray_operator(replicas=0)]},
            "warning", "KubeRay's operator in ray has no Pod", "-n ray scale deployment kuberay --replicas=1",
        ),
        ({"storage_classes": [], "claims": []}, "warning", "no default StorageClass; there are: none", "className"),
        (
            {"claims": [claim("data", "Pending")]},
            "error", "volume claim data is not bound (it asks for the default class)", "describe pvc data",
        ),
        (
            {
                "storage_classes": [{"metadata": {"name": "slow"}}],
                "claims": [claim("data-pen-redis-0", "Pending", storageClassName="fast")],
            },
            "error", "it asks for fast", "statefulset/pen-redis && helm upgrade pen helm/penstock -n penstock --reset-then-reuse-values --set redis.bundled",
        ),
        (
            {"workloads": [], "gateways": (), "elsewhere": [workload("gateway") | {"metadata": {"namespace": "serving"}}]},
            "error", "not installed in namespace penstock; it is in serving", "penstock doctor -n serving",
        ),
        (
            {
                "nodes": [
                    node(), node("n1", "False") | {"spec": {"unschedulable": True}}, node("n2") | {"spec": {"unschedulable": True}}
                ],
                "workloads": WELL.workloads,
            },
            "warning warning", "cordoned: n1, n2", "kubectl uncordon n1 n2",
        ),
        ({"workloads": [], "gateways": (), "claims": [], "models": []}, "error", "not installed in namespace penstock", "helm install"),
        (
            {"workloads": [each for each in WELL.workloads or () if "operator" not in each["metadata"]["name"]]},
            "warning", "there is no operator", "helm upgrade",
        ),
        (
            {
                "workloads": [*(WELL.workloads or ())[1:], workload("gateway", 2, 0)],
                "pods": [pod("gateway", containerStatuses=waiting("ImagePullBackOff", "not found"))],
            },
            "error", "gateway: 0 of 2 ready: ImagePullBackOff: not found", "--reset-then-reuse-values --set images.registry=REGISTRY",
        ),
        (
            {
                "workloads": [*(WELL.workloads or ())[1:], workload("gateway", 2, 1, updated=1)],
                "pods": [
                    pod("gateway", containerStatuses=waiting("CrashLoopBackOff", "back-off", terminated={"exitCode": 2}))
                ],
            },
            "warning", "gateway: 1 of 2 ready: CrashLoopBackOff, exit status 2: back-off", "helm rollback pen -n penstock",
        ),
        (
            {
                "workloads": [*(WELL.workloads or ())[1:], workload("gateway", 2, 0)],
                "pods": [pod("gateway", conditions=[
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
                ])],
            },
            "error", "Unschedulable: 0/1 nodes", "--set gateway.resources.requests.cpu=LESS",
        ),
        (
            {"pods": [pod("gateway", containerStatuses=waiting("CrashLoopBackOff", "", terminated={"exitCode": 2}))]},
            "warning", "gateway: 2 of 2 ready: CrashLoopBackOff, exit status 2", "logs -l app.kubernetes.io/component=gateway --tail 2  # says why",
        ),
        (
            {"pods": [pod("gateway", containerStatuses=[{"state": {"terminated": {"exitCode": 2, "reason": "Error"}}}])]},
            "warning", "gateway: 2 of 2 ready: ended with exit status 2: Error", "--tail 2  # says why",
        ),
        (
            {"pods": [pod("gateway", containerStatuses=[{
                "state": {"running": {}}, "ready": False, "restartCount": 3, "lastState": {"terminated": {"exitCode": 2}}
            }])]},
            "warning", "gateway: 2 of 2 ready: restarted 3 times, the last time after exit status 2", "logs -l app.kubernetes.io/component=gateway --tail 2  # says why",
        ),
        ({"leases": []}, "error", "no operator has ever led", "rollout restart deployment penstock-operator"),
        ({"leases": [lease("")]}, "error", "no operator leads", "rollout restart"),
        ({"leases": [lease(age_s=60)]}, "error", "operator-a led, and has been silent for 60 s", "logs"),
        (
            {"workloads": [*(WELL.workloads or ())[:3], workload("redis", 1, 1)]},
            "warning", "Redis keeps nothing on disk",
            "kubectl -n penstock delete statefulset penstock-redis && helm upgrade pen helm/penstock -n penstock --reset-then-reuse-values --set redis.bundled.storage.enabled=true",
        ),
        ({"secrets": frozenset()}, "error", "Secret penstock-redis is not there", "create secret generic penstock-redis"),
        (
            {"workloads": needing("gateway", "tls", "front")},
            "error", "Secret front is not there; gateway needs it", "create secret tls front --cert=tls.crt --key=tls.key",
        ),
        (
            {"workloads": needing("gateway", "tls", "pen-penstock-gateway-tls")},
            "error", "Secret pen-penstock-gateway-tls is not there", "helm upgrade pen helm/penstock -n penstock",
        ),
        (
            {"workloads": needing("redis", "auth", "penstock-redis"), "secrets": frozenset()},
            "error", "Secret penstock-redis is not there; redis needs it", "--from-literal=auth.conf=",
        ),
        (
            {"workloads": needing("gateway", "keys", "clients")},
            "error", "Secret clients is not there; gateway needs it", "create secret generic clients --from-file=keys",
        ),
        (
            {"workloads": needing("controller", "tls", "mtls")},
            "error", "Secret mtls is not there; controller needs it", "--from-file=tls.key --from-file=ca.crt",
        ),
        (
            {"models": [model(roles=[{"name": "prefill", "accelerators": [{"profile": "none"}]}])]},
            "error", "AcceleratorProfile none, which is not there", "kubectl apply -f PROFILE.yaml",
        ),
        (
            {"gateways": (Gateway("gw-a", True, ("registry-lost: Redis does not answer", "sharing-lost: too")),)},
            "error", "gw-a does not reach Redis", "rollout restart statefulset penstock-redis",
        ),
        (
            {
                "gateways": (Gateway("gw-a", True, ("registry-lost: Redis does not answer",)),),
                "workloads": (WELL.workloads or ())[:3],
            },
            "error", "gw-a does not reach Redis", "get secret penstock-redis",
        ),
        (
            {"workloads": [*(WELL.workloads or ())[:3], workload("redis", 0, 0, volumeClaimTemplates=[{}])]},
            "error", "redis: scaled to 0", "-n penstock scale statefulset penstock-redis --replicas=1",
        ),
        (
            {"gateways": (Gateway("gw-a", True, ("endpoints-ejected: tiny-0",)),)},
            "warning", "gw-a is degraded: endpoints-ejected: tiny-0", "kubectl get md -A; penstock status",
        ),
        ({"gateways": (Gateway("gw-a", False),)}, "unknown", "gw-a was not reached", "pods/proxy"),
        ({"models": [model("False")]}, "warning", "models/m: WorkersBlocked: 0 of 2 ready: no GPU", "describe md m"),
        ({"models": [model(None)]}, "warning", "models/m: no operator has looked at it", "describe md m"),
        ({"models": [model(generation=2)]}, "warning", "models/m: no operator has looked at it", "describe md m"),
        (
            {"models": [told("UpToDate", "OlderImages", "2 of 2 workers run a in place of b -> penstock rollout restart m")]},
            "warning", "models/m: OlderImages: 2 of 2 workers run a in place of b", "penstock rollout restart m",
        ),
        (
            {"models": [told("Routed", "NotAllowedByListeners", "Gateway a/b: no")]},
            "warning", "models/m: NotAllowedByListeners: Gateway a/b: no", "describe md m",
        ),
        (
            {"workers": [
                pod("", containerStatuses=waiting("ErrImageNeverPull", "not present"))
                | {"metadata": {"name": "m-2", "namespace": "models"}}
            ]},
            "warning", "worker models/m-2: ErrImageNeverPull: not present", "-n models describe pod m-2",
        ),
        (
            {"models": [blocked("Ready", "False", "WorkersBlocked")]},
            "warning", "models/m: WorkersBlocked: 0 of 1: ErrImagePull", "kubectl -n models edit md m  # add nodes",
        ),
        (
            {"models": [blocked("Progressing", "True", "RolloutBlocked")], "workers": [WAITING]},
            "warning", "models/m: RolloutBlocked: 0 of 1: ErrImagePull", "kubectl -n models edit md m  # add nodes",
        ),
        (
            {"models": [model(None)], "workers": [WAITING]},
            "warning warning", "models/m: no operator has looked at it", "describe md m",
        ),
        (
            {"models": [blocked("Ready", "False", "QuotaExceeded", "no more -> raise the namespace's ResourceQuota")]},
            "warning", "QuotaExceeded: no more", "raise the namespace's ResourceQuota",
        ),
        ({"profiles": [accelerator(resource="amd.com/gpu")]}, "warning", "its nodes have no amd.com/gpu", "k8s-ds-amdgpu-dp.yaml"),
        ({"profiles": [accelerator(resource="google.com/tpu")]}, "warning", "no google.com/tpu", "kubectl get daemonsets -A"),
        (
            {"models": [blocked("Progressing", "False", "RolloutStopped", "a: b -> undo it with `penstock rollout undo`, or change it")]},
            "warning", "RolloutStopped: a: b", "penstock rollout undo m -n models  # undo it with this, or change it",
        ),
        (
            {"workers": [WAITING]},
            "warning", "worker models/m-2: ErrImagePull: no", "kubectl -n models edit md m  # check the image's name",
        ),
        (
            {"workers": [WAITING | {"status": {"containerStatuses": waiting("CrashLoopBackOff", "back-off")}}]},
            "warning", "worker models/m-2: CrashLoopBackOff", "kubectl -n models logs m-2 --previous --all-containers  # read why with this",
        ),
        (
            {"metrics_api": False, "autoscalers": [{"metadata": {"name": "penstock-gateway"}}]},
            "error", "metrics API is not there: penstock-gateway cannot scale", "metrics-server",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_mend(change: Object, level: str, said: str, mend: str) -> None:
    """One thing that is wrong gives one finding, of the right level, that names it and the command."""
    found = unwell(dataclasses.replace(WELL, **change))
    assert [str(each.level) for each in found] == level.split(), found
    assert said in found[0].message
    assert mend in found[0].mend
    for each in found:
        assert shell.typed(each.mend) <= shell.PROGRAMS, f"not to be typed: {each.mend}"


def test_each_cause_has_its_own_step() -> None:
    """A model that two things keep from being ready: each with what mends it, and not both in one command."""
    message = "0 of 2: a: 1; 2 -> look at `kubectl logs a`; b: 3 -> look at b"
    found = unwell(dataclasses.replace(WELL, models=[blocked("Ready", "False", "WorkersBlocked", message)]))
    assert [each.message.partition("WorkersBlocked: ")[2] for each in found] == ["0 of 2: a: 1; 2", "b: 3"]
    assert [each.mend for each in found] == [
        "kubectl -n models logs a  # look at this",
        "kubectl -n models describe md m  # look at b",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"other_definitions": frozenset(), "models": []}, "nothing needs it"),
        ({"metrics_api": False}, "nothing here asks it"),
        ({"profiles": [accelerator()], "nodes": [node(nvidia="8")]}, "h100: 8 of nvidia.com/gpu on 1 nodes"),
        ({"models": []}, "no model is asked for yet"),
    ],
)
def test_what_nothing_needs_is_no_fault(change: Object, said: str) -> None:
    """What is missing and not asked for is told as it is, and is well."""
    sight = dataclasses.replace(WELL, **change)
    assert unwell(sight) == []
    assert any(said in each.message for each in checks.run(sight))


@pytest.mark.parametrize(
    "name",
    [
        "version",
        "definitions",
        "other_definitions",
        "kuberay",
        "nodes",
        "storage_classes",
        "metrics_api",
        "workloads",
        "leases",
        "models",
    ],
)
def test_what_cannot_be_seen_is_unknown(name: str) -> None:
    """A user without the right to look gets `unknown`, neither a fault nor a clean bill."""
    blind = {name: None} | ({"gateways": ()} if name == "workloads" else {})
    found = unwell(dataclasses.replace(WELL, **blind))
    assert {each.level for each in found} == {Level.UNKNOWN}


def test_what_an_installation_has_left() -> None:
    """After an uninstall: the user's data and workers, each with what takes it away."""
    left = dataclasses.replace(
        WELL,
        namespace="models",
        claims=[claim("data"), {"metadata": {"name": "others"}, "spec": {}}],
        workloads=[],
        gateways=(),
        leases=[],
        kept_secrets=frozenset({"penstock-redis"}),
        workers=[WAITING],
    )
    found = {each.check: each for each in unwell(left)}
    said = [each.message for each in unwell(left) if each.check == "left"]
    assert found["release"].level is Level.ERROR and len(said) == 2
    assert "pvc/data, secret/penstock-redis" in said[0]
    assert "ModelDeployments m with 1 Pods go on, and no operator" in said[1]
    unseen = unwell(dataclasses.replace(left, elsewhere=None))
    assert "left" not in {each.check for each in unseen}, "what may be another release's is not offered for deletion"


def test_an_operator_of_another_release() -> None:
    """A release without one is well where another's looks after the cluster."""
    others = [
        workload("operator") | {"metadata": {"namespace": "a", "labels": {"app.kubernetes.io/component": "operator"}}}
    ]
    without = [each for each in WELL.workloads or () if "operator" not in each["metadata"]["name"]]
    assert unwell(dataclasses.replace(WELL, workloads=without, elsewhere=others)) == []


def test_pods_that_have_ended_or_are_others_keep_nobody() -> None:
    """An evicted Pod whose place was taken, one that is deleted, and one of another release say nothing of this one."""
    ended = {"containerStatuses": [{"state": {"terminated": {"exitCode": 137}}}]}
    evicted = pod("gateway", phase="Failed", **ended)
    going = pod("gateway", **ended)
    going["metadata"] = going["metadata"] | {"deletionTimestamp": "now"}
    another = pod("gateway", **ended)
    another["metadata"] = another["metadata"] | {
        "labels": {"app.kubernetes.io/component": "gateway", "app.kubernetes.io/instance": "other"}
    }
    assert unwell(dataclasses.replace(WELL, pods=[evicted, going, another])) == []


@pytest.mark.parametrize(
    "spread",
    [
        {"parallelism": {"nodes": 2}},
        {"accelerators": [{"profile": "h100", "parallelism": {"nodes": 2}}]},
        {"roles": [{"name": "unified", "parallelism": {"nodes": 2}}]},
        {"roles": [{"name": "unified", "accelerators": [{"profile": "h100", "parallelism": {"nodes": 2}}]}]},
    ],
)
def test_wherever_a_worker_is_given_several_nodes_kuberay_is_needed(spread: Object) -> None:
    """By the deployment, a role, or an accelerator of either."""
    sight = dataclasses.replace(WELL, models=[model(**spread)], other_definitions=frozenset())
    [found] = [each for each in unwell(sight) if each.check == "kuberay"]
    assert found.level is Level.ERROR


@pytest.mark.parametrize(
    ("own", "other", "shared"),
    [
        ("*", None, "all namespaces"), ("*", "a,b", "a, b"), ("a,b", "*", "a, b"), ("a,b", "b,c", "b"), ("a", "b", ""),
    ],
)  # fmt: skip
def test_two_operators_of_one_namespace_are_rivals(own: str, other: str | None, shared: str) -> None:
    """Each says which namespaces it looks after; those of other namespaces are none."""
    workloads = copy.deepcopy(WELL.workloads) or []
    for each in workloads:
        each["metadata"]["annotations"] = {"penstock.dev/namespaces": own}
    found = unwell(dataclasses.replace(WELL, workloads=workloads, elsewhere=[abroad(other)]))
    assert [each.message for each in found] == (
        [f"the operator of the release in other looks after {shared} too: they undo each other's work"]
        if shared
        else []
    )


def test_another_releases_operator_is_taken_for_this_one_where_it_looks_after_it() -> None:
    """A release without an operator of its own."""
    without = [each for each in WELL.workloads or () if each["metadata"]["name"] != "penstock-operator"]
    said = [each.message for each in checks.run(dataclasses.replace(WELL, workloads=without, elsewhere=[abroad()]))]
    assert "the operator of the release in other is this one's too" in said


@pytest.mark.parametrize("mode", [each for each in degraded.MODES if each != degraded.REGISTRY_LOST])
def test_every_mode_of_a_gateway_has_a_command(mode: str) -> None:
    """One of its own."""
    (found,) = unwell(dataclasses.replace(WELL, gateways=(Gateway("gw-a", True, (f"{mode}: reason",)),)))
    assert found.mend.startswith("kubectl ") and "docs/routing.md" in found.mend
    assert shell.typed(found.mend) <= shell.PROGRAMS

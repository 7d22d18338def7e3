"""The checks of the cluster itself: pure functions from a sight to findings. `release` has those of the installed release."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from controller.doctor import pods, release
from controller.doctor.sight import Finding, Level, Object, Sight, name
from operators.policy import hardware

OLDEST = (1, 31)
_KUBERAY = frozenset({"rayclusters.ray.io", "rayservices.ray.io"})
_GATEWAY_API = frozenset({"gateways.gateway.networking.k8s.io", "httproutes.gateway.networking.k8s.io"})
_POOLS = "inferencepools.inference.networking.k8s.io"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_APPLY = "kubectl apply --server-side --force-conflicts -f helm/penstock/crds"
_DEVICE_PLUGINS = {
    "nvidia.com/": "helm install nvdp nvidia-device-plugin --repo https://nvidia.github.io/k8s-device-plugin -n kube-system",
    "amd.com/": "kubectl create -f https://raw.githubusercontent.com/ROCm/k8s-device-plugin/master/k8s-ds-amdgpu-dp.yaml",
}
_UPGRADE = "kubeadm upgrade plan  # or, where somebody else runs the control plane, their upgrade"
# Resources that nodes have without a device plugin.
_PLAIN = ("cpu", "memory", "pods", "ephemeral-storage", "hugepages-")


def run(sight: Sight) -> list[Finding]:
    """All findings, in the order of what has to be there first."""
    found: list[Finding] = []
    for check in CHECKS:
        found += check(sight)
    return found


def version(sight: Sight) -> Iterator[Finding]:
    """The API server is new enough for the chart."""
    if sight.version is None:
        yield Finding("version", Level.UNKNOWN, "the API server does not say its version")
        return
    shown, oldest = ".".join(map(str, sight.version)), ".".join(map(str, OLDEST))
    if sight.version < OLDEST:
        yield Finding("version", Level.ERROR, f"Kubernetes {shown} is older than {oldest}", _UPGRADE)
    else:
        yield Finding("version", Level.OK, f"Kubernetes {shown}")


def definitions(sight: Sight) -> Iterator[Finding]:
    """The custom resources are there, served, and those of this version."""
    if sight.definitions is None:
        yield _unseen("definitions", "custom resource definitions", "list customresourcedefinitions")
        return
    wrong = False
    for full, wanted in sight.wanted_definitions.items():
        found = sight.definitions.get(full)
        if found is None:
            wrong = True
            yield Finding("definitions", Level.ERROR, f"{full} is not there", _APPLY)
            continue
        conditions = {each["type"]: each["status"] for each in found.get("status", {}).get("conditions", ())}
        if conditions.get("Established") != "True":
            wrong = True
            mend = f"kubectl describe crd {full}; {_APPLY}  # the first says who has its names"
            yield Finding("definitions", Level.ERROR, f"{full} is not served", mend)
        elif _schemas(found) != _schemas(wanted):
            wrong = True
            yield Finding("definitions", Level.WARNING, f"{full} is of another version than this command", _APPLY)
    if not wrong:
        yield Finding("definitions", Level.OK, f"{len(sight.wanted_definitions)} custom resources, of this version")


def _schemas(definition: Object) -> list[Any]:
    return [(each["name"], each["schema"]) for each in definition["spec"]["versions"]]


def accelerators(sight: Sight) -> Iterator[Finding]:
    """Nodes have what AcceleratorProfiles and ModelDeployments ask for."""
    if sight.nodes is None:
        yield _unseen("accelerators", "nodes", "list nodes")
        return
    ready = [each for each in sight.nodes if _ready(each)]
    if len(ready) < len(sight.nodes):
        cordoned = [name(each) for each in sight.nodes if each.get("spec", {}).get("unschedulable")]
        if cordoned:
            message = f"cordoned: {', '.join(cordoned)}"
            yield Finding("nodes", Level.WARNING, message, f"kubectl uncordon {' '.join(cordoned)}")
        missing = [name(each) for each in sight.nodes if not _answers(each)]
        if missing:
            message = f"not ready: {', '.join(missing)}"
            mend = f"kubectl describe node {' '.join(missing)}  # kubelet or network; on the node: systemctl restart kubelet"
            yield Finding("nodes", Level.WARNING, message, mend)
    if not ready:
        yield Finding("nodes", Level.ERROR, "no node takes Pods", "kubectl get nodes")
    devices = sorted({resource for each in ready for resource in _devices(each)})
    profiles = {name(each): each["spec"] for each in sight.profiles or ()}
    nodes = [hardware.Node.of(each) for each in sight.nodes]
    for profile, spec in profiles.items():
        resource, labels = spec["resourceName"], spec.get("nodeSelector", {})
        found = hardware.find(resource, labels, nodes)
        if found.accelerators:
            message = f"{profile}: {found.accelerators} of {resource} on {found.nodes} nodes"
            yield Finding("accelerators", Level.OK, message)
        elif labels and not found.labelled:
            shown = ",".join(f"{key}={value}" for key, value in labels.items())
            yield Finding(
                "accelerators", Level.WARNING, f"{profile}: no node has {shown}", f"kubectl get nodes -l {shown}"
            )
        else:
            message = f"{profile}: its nodes have no {resource}: the device plugin does not run there"
            yield Finding("accelerators", Level.WARNING, message, _plugin(resource))
    asked = sorted({each["profile"] for model in sight.models or () for each in _choices(model["spec"])})
    for profile in asked:
        if profile not in profiles and sight.profiles is not None:
            message = f"a ModelDeployment asks for AcceleratorProfile {profile}, which is not there"
            yield Finding("accelerators", Level.ERROR, message, "kubectl get accel; kubectl apply -f PROFILE.yaml")
    if not profiles and not asked:
        have = ", ".join(devices) or "none"
        yield Finding("accelerators", Level.OK, f"no AcceleratorProfile: workers run on CPUs; devices of nodes: {have}")


def _choices(spec: Object) -> Iterator[Object]:
    """The accelerators that a ModelDeployment names, for all its roles or for one."""
    for part in (spec, *spec.get("roles", ())):
        yield from part.get("accelerators", ())


def _answers(node: Object) -> bool:
    conditions = {each["type"]: each["status"] for each in node.get("status", {}).get("conditions", ())}
    return conditions.get("Ready") == "True"


def _ready(node: Object) -> bool:
    return _answers(node) and not node.get("spec", {}).get("unschedulable")


def _devices(node: Object) -> list[str]:
    return [each for each in node.get("status", {}).get("allocatable", {}) if not each.startswith(_PLAIN)]


def _plugin(resource: str) -> str:
    for domain, command in _DEVICE_PLUGINS.items():
        if resource.startswith(domain):
            return command
    return f"kubectl get daemonsets -A  # is the device plugin that offers {resource} there? install or mend it"


def kuberay(sight: Sight) -> Iterator[Finding]:
    """KubeRay is there where a model needs it."""
    if sight.other_definitions is None:
        yield _unseen("kuberay", "custom resource definitions", "list customresourcedefinitions")
        return
    needs = [name(each) for each in sight.models or () if _needs_ray(each)]
    missing = sorted(_KUBERAY - sight.other_definitions)
    if not missing:
        yield _ray_operator(sight, needs)
    elif needs:
        message = f"{', '.join(missing)} not there, and {', '.join(needs)} needs KubeRay"
        yield Finding("kuberay", Level.ERROR, message, pods.KUBERAY_INSTALL)
    else:
        message = "KubeRay is not there: no model spans nodes or is hosted by Ray Serve, so nothing needs it"
        yield Finding("kuberay", Level.OK, message, pods.KUBERAY_INSTALL)


def _ray_operator(sight: Sight, needs: Sequence[str]) -> Finding:
    """Whether KubeRay's operator runs, once its definitions are there."""
    if sight.kuberay is None:
        return _unseen("kuberay", "deployments of other namespaces", "list deployments -A")
    if not sight.kuberay:
        who = f", and {', '.join(needs)} waits for it" if needs else ""
        message = f"KubeRay's definitions are there, but no Deployment of its operator (app.kubernetes.io/name){who}"
        return Finding("kuberay", Level.WARNING if needs else Level.OK, message, pods.KUBERAY_INSTALL)
    ready = [each for each in sight.kuberay if each.get("status", {}).get("readyReplicas", 0)]
    if ready:
        return Finding("kuberay", Level.OK, f"KubeRay's operator runs in {ready[0]['metadata']['namespace']}")
    found = sight.kuberay[0]
    namespace = found["metadata"]["namespace"]
    message = f"KubeRay's operator in {namespace} has no Pod that is ready"
    mend = f"kubectl -n {namespace} rollout restart deployment {name(found)}"
    if not found["spec"].get("replicas", 1):
        mend = f"kubectl -n {namespace} scale deployment {name(found)} --replicas=1"
    return Finding("kuberay", Level.ERROR if needs else Level.WARNING, message, mend)


def _needs_ray(model: Object) -> bool:
    spec = model["spec"]
    roles = spec.get("roles", ())
    given = [spec, *roles, *(kind for each in (spec, *roles) for kind in each.get("accelerators", ()))]
    spread = any((each.get("parallelism") or {}).get("nodes", 1) > 1 for each in given)
    return spread or spec.get("hosting") == "RayServe"


def storage(sight: Sight) -> Iterator[Finding]:
    """A claim without a class finds one."""
    if sight.storage_classes is None:
        yield _unseen("storage", "storage classes", "list storageclasses")
        return
    default = [name(each) for each in sight.storage_classes if _default(each)]
    claims = _claims(sight)
    pending = [each for each in claims if each.get("status", {}).get("phase") == "Pending"]
    for each in pending:
        # None is the default class, an empty name none at all.
        wanted = each["spec"].get("storageClassName")
        asked = "the default class" if wanted is None else wanted or "a volume without a class"
        message = f"volume claim {name(each)} is not bound (it asks for {asked})"
        mend = f"kubectl -n {sight.namespace} describe pvc {name(each)}"
        there = {name(known) for known in sight.storage_classes}
        if there and (not default if wanted is None else wanted and wanted not in there):
            objects = f"pvc/{name(each)} statefulset/{name(each).removeprefix('data-').rpartition('-')[0]}"
            upgrade = release.upgrade(sight) + " --set redis.bundled.storage.className=CLASS"
            mend = f"kubectl -n {sight.namespace} delete {objects} && {upgrade}  # one of {', '.join(sorted(there))}"
        yield Finding("storage", Level.ERROR, message, mend)
    if default:
        yield Finding("storage", Level.OK, f"default StorageClass {default[0]}")
    elif not claims:
        names = ", ".join(name(each) for each in sight.storage_classes) or "none"
        mend = f"{release.upgrade(sight)} --set redis.bundled.storage.className=CLASS  # or mark a class as the default"
        yield Finding("storage", Level.WARNING, f"no default StorageClass; there are: {names}", mend)


def _claims(sight: Sight) -> list[Object]:
    """The release's own: others' Redis may be in the namespace as well."""
    releases = set(map(pods.release, sight.workloads or ()))
    return [each for each in sight.claims or () if pods.release(each) in releases]


def _default(each: Object) -> bool:
    marked: str = each["metadata"].get("annotations", {}).get(_DEFAULT_CLASS, "")
    return marked == "true"


def metrics(sight: Sight) -> Iterator[Finding]:
    """The resource metrics API answers, where an autoscaler asks it."""
    asking = [name(each) for each in sight.autoscalers or ()]
    if sight.metrics_api is None:
        yield _unseen("metrics", "API services", "get apiservices")
    elif sight.metrics_api:
        yield Finding("metrics", Level.OK, "the resource metrics API answers")
    else:
        mend = "kubectl apply -f https://github.com/kubernetes-sigs/metrics-server/releases/latest/download/components.yaml"
        level = Level.ERROR if asking else Level.OK
        who = f"{', '.join(asking)} cannot scale" if asking else "nothing here asks it"
        yield Finding("metrics", level, f"the resource metrics API is not there: {who}", mend)


def routes(sight: Sight) -> Iterator[Finding]:
    """Whether an existing gateway could be used: never an error."""
    if sight.other_definitions is None:
        return
    if sight.other_definitions >= _GATEWAY_API:
        pools = "and" if _POOLS in sight.other_definitions else "without"
        yield Finding("routes", Level.OK, f"Gateway API is there, {pools} its inference extension")
    else:
        yield Finding("routes", Level.OK, "Gateway API is not there: clients use the gateways' own Service")


def _unseen(check: str, what: str, right: str) -> Finding:
    return Finding(check, Level.UNKNOWN, f"{what} cannot be seen", f"kubectl auth can-i {right}")


CHECKS: Sequence[Callable[[Sight], Iterator[Finding]]] = (
    version, definitions, release.rights, accelerators, kuberay, storage, release.workloads, release.operator_lease,
    release.redis, release.gateways, release.models, metrics, routes,
)  # fmt: skip

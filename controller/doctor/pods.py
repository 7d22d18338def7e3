"""What keeps a Pod from being ready, and the command that mends it."""

from __future__ import annotations

import dataclasses
import re

from controller.doctor.sight import Object, component, name
from operators import pods as workers
from operators.policy import problems

# Where the chart's values of a component are not under its own name.
_VALUES = {"redis": "redis.bundled", "node-agent": "nodeAgent"}
_PULLED = frozenset({"ErrImagePull", "ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName"})
# Steps that change the ModelDeployment.
_EDITED = re.compile(r"spec\.|engine\.|model\.|parallelism|deployment|specification|the image's name")
KUBERAY_INSTALL = (
    "helm install kuberay-operator kuberay-operator --repo https://ray-project.github.io/kuberay-helm "
    "-n kuberay --create-namespace"
)
_RELEASES = "https://github.com/kubernetes-sigs"
# What a cause says in Kubernetes' or the operator's words, and the command for what it names there.
_COMMANDS = tuple(
    (re.compile(said), command)
    for said, command in (
        (r"exceeded quota: (?P<it>[^,\s]+)", "kubectl -n {namespace} edit resourcequota {it}"),
        (
            r"couldn't find key (?P<key>\S+) in Secret (?:\S+/)?(?P<it>[^\s/]+)",
            'kubectl -n {namespace} patch secret {it} -p \'{{"stringData":{{"{key}":"VALUE"}}}}\'',
        ),
        (
            r'secret "(?P<it>[^"]*redis[^"]*)" not found',
            "kubectl -n {home} get secret {it} -o jsonpath='{{.data.url}}' | base64 -d | "
            "kubectl -n {namespace} create secret generic {it} --from-file=url=/dev/stdin",
        ),
        (
            r'secret "(?P<it>[^"]+)" not found',
            "kubectl -n {namespace} create secret generic {it} --from-literal=KEY=VALUE",
        ),
        # The step says what to change, or which label would let it in.
        (r"(?i)violates podsecurity", "kubectl -n {namespace} edit md {deployment}"),
        (r"(?i)forbidden: user|cannot create resource|right to list", "{upgrade}"),
        (
            r"(?P<kind>[A-Z]\w+) (?P<it>\S+) is there and not of this",
            "kubectl -n {namespace} get {kind} {it} -o yaml",
        ),
        (r"the cluster does not know this kind", KUBERAY_INSTALL),
        (r"AcceleratorProfile \S+ is not there", "kubectl apply -f PROFILE.yaml"),
        (r"AcceleratorProfile (?P<it>[^\s:]+): ", "kubectl edit accel {it}"),
        (
            r"does not know HTTPRoutes",
            f"kubectl apply --server-side -f {_RELEASES}/gateway-api/releases/latest/download/standard-install.yaml",
        ),
        (
            r"does not know InferencePools",
            f"kubectl apply -f {_RELEASES}/gateway-api-inference-extension/releases/latest/download/v1-manifests.yaml",
        ),
        (r"serve no endpoint picker", "{upgrade} --set gateway.pickerPort=9002"),
    )
)
_QUOTED = re.compile(r"`([^`]+)`")
_UNDO = "penstock rollout undo"
_UNMADE = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclasses.dataclass(frozen=True)
class Release:
    """Helm's name of it, and where it is."""

    name: str
    namespace: str

    @property
    def upgrade(self) -> str:
        """What helm calls a change of some values of the release that is there."""
        return f"helm upgrade {self.name} helm/penstock -n {self.namespace} --reset-then-reuse-values"


@dataclasses.dataclass(frozen=True)
class Problem:
    """Kubernetes' word for it, and its own message."""

    reason: str
    message: str

    @property
    def shown(self) -> str:
        """Both."""
        return f"{self.reason}: {self.message}".rstrip(": ")


def problem(pod: Object) -> Problem | None:
    """What keeps a Pod from being ready; None where nothing is said, or where it has ended and another takes its place."""
    status = pod.get("status", {})
    if status.get("phase") in ("Failed", "Succeeded") or "deletionTimestamp" in pod["metadata"]:
        return None
    for each in status.get("conditions", ()):
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return Problem(each.get("reason", "Unschedulable"), each.get("message", ""))
    for each in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        state, last = each.get("state", {}), each.get("lastState", {}).get("terminated", {})
        waiting, ended = state.get("waiting", {}), state.get("terminated", {})
        if ended.get("exitCode"):
            return Problem(f"ended with exit status {ended['exitCode']}", ended.get("reason", ""))
        if problems.step(waiting.get("reason", ""), name(pod)):
            code = f", exit status {last['exitCode']}" if "exitCode" in last else ""
            return Problem(waiting["reason"] + code, waiting.get("message", ""))
        if "running" in state and not each.get("ready") and last.get("exitCode"):
            times, code = each.get("restartCount", 1), last["exitCode"]
            return Problem(f"restarted {times} times, the last time after exit status {code}", "")
    return None


def owner(pod: Object) -> tuple[str, str]:
    """Namespace and name of the ModelDeployment that a worker's Pod belongs to."""
    about = pod["metadata"]
    return about["namespace"], about.get("labels", {}).get(workers.DEPLOYMENT_LABEL, "")


def mend_worker(pod: Object, found: Problem, own: Release) -> str:
    """What to do about a worker of a ModelDeployment: what the operator's condition says of it too."""
    namespace, deployment = owner(pod)
    step = problems.step(found.reason.partition(",")[0], name(pod))
    if not step or not deployment:
        return f"kubectl -n {namespace} describe pod {name(pod)}"
    return mend_model(namespace, deployment, found.shown, step, own)


def mend_model(namespace: str, deployment: str, cause: str, step: str, own: Release) -> str:
    """Cause and step of a condition as something to type, with what is to be known of it after a #.

    The step's own command, that for what the cause names, or a change of the ModelDeployment. `own` is the release.
    """
    typed = _QUOTED.search(step)
    if typed is not None or step.startswith(("kubectl ", "penstock ")):
        command = typed[1] if typed is not None else step
        if command == _UNDO:
            command += f" {deployment} -n {namespace}"
        elif command.startswith("kubectl ") and " -n " not in command:
            command = command.replace("kubectl ", f"kubectl -n {namespace} ", 1)
        return command if typed is None else f"{command}  # {step.replace(typed[0], 'this')}"
    for said, command in _COMMANDS:
        if found := said.search(cause):
            known = {
                "namespace": namespace,
                "deployment": deployment,
                "home": own.namespace,
                "upgrade": own.upgrade,
                **found.groupdict(),
            }
            return f"{command.format(**known)}  # {step}"
    verb = "edit" if _EDITED.search(step) else "describe"
    return f"kubectl -n {namespace} {verb} md {deployment}  # {step}"


def mend_component(workload: Object, found: Problem | None) -> str:
    """What to do about a Pod of the release itself."""
    namespace, which = workload["metadata"]["namespace"], component(workload)
    values = _VALUES.get(which, which)
    own = Release(release(workload), namespace)
    selector = f"app.kubernetes.io/component={which}"
    if found is None and which == "node-agent":
        # A Pod that was refused is not there to be described.
        label = f"kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=privileged --overwrite"
        return f"kubectl -n {namespace} describe daemonset {name(workload)}  # says why; where Pod Security forbids it, {label}"
    if found is None or found.reason in _UNMADE:
        return f"kubectl -n {namespace} describe pods -l {selector}"
    if found.reason == "Unschedulable":
        return f"{own.upgrade} --set {values}.resources.requests.cpu=LESS  # or add nodes"
    if found.reason in _PULLED:
        image = f"{values}.image=IMAGE" if which == "redis" else "images.registry=REGISTRY --set images.tag=TAG"
        return f"{own.upgrade} --set {image}  # or with images.pullSecrets that may pull it"
    logs = f"kubectl -n {namespace} logs -l {selector} --tail 2"
    # Only a roll-out that is going on is the last upgrade's.
    status = workload.get("status", {})
    wanted = status.get("desiredNumberScheduled", workload["spec"].get("replicas", 1))
    if status.get("updatedReplicas", status.get("updatedNumberScheduled", 0)) >= wanted:
        return f"{logs}  # says why"
    return (
        f"{logs}; helm rollback {own.name} -n {namespace}  # the first says why, the second takes back the last upgrade"
    )


def release(workload: Object) -> str:
    """Helm's name of the release that an object belongs to."""
    return str(workload["metadata"].get("labels", {}).get("app.kubernetes.io/instance", "RELEASE"))

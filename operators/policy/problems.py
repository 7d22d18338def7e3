"""What keeps a worker from running, in Kubernetes' own words, and what to do about it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why a worker cannot be made, or another object not be kept: no quota, no rights, a name that is taken."""

    reason: str
    message: str


# Reasons that a container waits for: of the worker's own making. The rest passes by itself.
_CONTAINER = {
    "ErrImagePull": "check the image's name and spec.placement.imagePullSecrets",
    "ImagePullBackOff": "check the image's name and spec.placement.imagePullSecrets",
    "InvalidImageName": "correct spec.engine.image",
    "ErrImageNeverPull": "the image is not on the node: load it there, or change its pull policy",
    "CrashLoopBackOff": "read why with `kubectl logs {pod} --previous --all-containers`",
    "CreateContainerConfigError": "make the Secret or key that it names, in the deployment's namespace",
    "CreateContainerError": "look at `kubectl describe pod {pod}`",
    "RunContainerError": "look at `kubectl describe pod {pod}`",
}
_UNSCHEDULABLE = "add nodes, or change accelerators, resources or placement of the deployment"


def step(reason: str, pod: str) -> str:
    """What to do about a Pod for this reason of Kubernetes'; empty where it passes by itself."""
    return _UNSCHEDULABLE if reason == "Unschedulable" else _CONTAINER.get(reason, "").format(pod=pod)


def of_container(pod: str, reason: str, message: str) -> str:
    """A container that waits: cause and next step; empty where the reason is no problem."""
    if reason not in _CONTAINER:
        return ""
    return _joined(reason, message, step(reason, pod))


def of_engine_end(pod: str) -> str:
    """An engine that has ended by itself, as if all were well: Kubernetes does not start it again."""
    return _joined(
        "EngineEnded", "the engine has ended with exit code 0", f"read why with `kubectl logs {pod} -c engine`"
    )


def of_volumes(pod: str) -> str:
    """A Pod whose containers a kubelet cannot begin to make."""
    said = "its volumes or its network are not there after a minute"
    return _joined("ContainerCreating", said, f"`kubectl describe pod {pod}` names the Secret, claim or folder")


def of_failure(pod: str, reason: str, message: str) -> str:
    """A Pod that a kubelet has refused or ended."""
    return _joined(reason, message, f"another takes its place: if that goes on, look at `kubectl describe pod {pod}`")


def of_scheduling(reason: str, message: str) -> str:
    """A Pod that has no node."""
    return _joined(reason or "Unschedulable", message, _UNSCHEDULABLE)


def of_refusal(message: str) -> tuple[str, str]:
    """Reason and message of a Pod that the API server does not take."""
    text = message.lower()
    if "exceeded quota" in text:
        return "QuotaExceeded", _joined("", message, "raise the namespace's ResourceQuota, or ask for less")
    if "forbidden: user" in text or "cannot create resource" in text:
        return "NoRights", _joined("", message, "give the operator's ServiceAccount this right (upgrade its chart)")
    if "violates podsecurity" in text:
        return "PodSecurity", _joined("", message, _pod_security_step(text))
    return "CreationRefused", _joined("", message, "correct what the message names in the ModelDeployment")


def of_object(kind: str, name: str, message: str) -> Problem:
    """An object beside the workers that the API server does not take."""
    reason, said = of_refusal(message)
    return Problem("Refused" if reason == "CreationRefused" else reason, f"{kind} {name}: {said}")


def name_taken(kind: str, name: str) -> Problem:
    """An object of this name is somebody else's."""
    return Problem(
        "NameTaken",
        f"{kind} {name} is there and not of this ModelDeployment -> delete it, or rename it or the deployment",
    )


def former(kind: str, name: str) -> Problem:
    """It belongs to the ModelDeployment that had this one's name before, and ends with it."""
    return Problem(
        "FormerWorkersEnd",
        f"{kind} {name} of the ModelDeployment that was here before still ends -> wait; a new worker takes its place",
    )


def _pod_security_step(text: str) -> str:
    """What of the deployment the namespace's Pod Security does not take, and what else there is."""
    label = "label the namespace pod-security.kubernetes.io/enforce"
    if "hostpath" in text:
        return f"model.source.volume or model.cache.claimName in place of a folder of the node, or {label}=privileged"
    if "runasnonroot" in text or "runasuser" in text:
        return f"engine.runAsUser above 0, with an image that can, or {label}=baseline"
    return f"change the deployment, or {label} as it needs"


def _joined(reason: str, message: str, step: str) -> str:
    said = f"{reason}: {message}".strip(": ").rstrip(".")
    return f"{said} -> {step}"

"""The checks of the installed release: its workloads, its operator's rights and lease, Redis, gateways, models."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from controller.doctor.sight import Finding, Level, Object, Sight, component, name

# Containers that wait for one of these wait for somebody to mend it.
_BLOCKED = frozenset({
    "ErrImagePull", "ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName", "CrashLoopBackOff",
    "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
})  # fmt: skip
# Of a long list, as many are told.
_SHOWN = 5
_NEEDED = ("gateway", "controller", "operator")


def rights(sight: Sight) -> Iterator[Finding]:
    """The operator's account may do what the operator does."""
    if not sight.rights:
        return
    denied = [each for each in sight.rights if each.allowed is False]
    unknown = [each for each in sight.rights if each.allowed is None]
    for place in sorted({each.namespace for each in denied}):
        shown = [each.shown for each in denied if each.namespace == place]
        more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        message = f"the operator may not {', '.join(shown[:_SHOWN])}{more}" + (f" in {place}" if place else "")
        mend = "helm upgrade RELEASE helm/penstock --reset-then-reuse-values (makes its roles and bindings anew)"
        yield Finding("rights", Level.ERROR, message, mend)
    if unknown:
        message = "what the operator may do cannot be seen"
        yield Finding("rights", Level.UNKNOWN, message, "kubectl auth can-i create subjectaccessreviews")
    elif not denied:
        yield Finding("rights", Level.OK, f"the operator may do all {len(sight.rights)} things that it does")


def workloads(sight: Sight) -> Iterator[Finding]:
    """Every component of the release runs, in the number that is wanted."""
    if sight.workloads is None:
        message = f"workloads in {sight.namespace} cannot be seen"
        yield Finding("release", Level.UNKNOWN, message, "kubectl auth can-i list deployments")
        return
    present = {component(each) for each in sight.workloads}
    if not present:
        message = f"Penstock is not installed in namespace {sight.namespace}"
        mend = f"helm install penstock helm/penstock -n {sight.namespace} --create-namespace (or give -n NAMESPACE)"
        yield Finding("release", Level.ERROR, message, mend)
        return
    for missing in (each for each in _NEEDED if each not in present):
        level = Level.WARNING if missing == "operator" else Level.ERROR
        yield Finding(
            "release", level, f"there is no {missing}", "helm upgrade ...: it may be switched off in the values"
        )
    for each in sight.workloads:
        wanted, ready = each["spec"].get("replicas", 1), each.get("status", {}).get("readyReplicas", 0)
        shown = f"{component(each)}: {ready} of {wanted} ready"
        reasons = sorted({reason for pod in _pods(sight, component(each)) if (reason := problem(pod))})
        # A roll-out that does not get on leaves the old Pods ready: as many as are wanted, and one that is not.
        if ready >= wanted and not reasons:
            yield Finding("release", Level.OK, shown)
            continue
        level = Level.ERROR if ready == 0 < wanted else Level.WARNING
        selector = f"app.kubernetes.io/component={component(each)}"
        mend = f"kubectl -n {sight.namespace} describe pods -l {selector}"
        yield Finding("release", level, f"{shown}: {'; '.join(reasons) or 'no Pod says why'}", mend)


def _pods(sight: Sight, which: str) -> list[Object]:
    return [each for each in sight.pods or () if component(each) == which]


def problem(pod: Object) -> str:
    """What keeps a Pod from being ready, in Kubernetes' words; empty where nothing is said."""
    status = pod.get("status", {})
    for each in status.get("conditions", ()):
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return f"{each.get('reason', 'Unschedulable')}: {each.get('message', '')}".rstrip(": ")
    for each in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        state, last = each.get("state", {}), each.get("lastState", {}).get("terminated", {})
        waiting, ended = state.get("waiting", {}), state.get("terminated", {})
        if ended.get("exitCode"):
            return f"ended with exit status {ended['exitCode']}: {ended.get('reason', '')}".rstrip(": ")
        if waiting.get("reason") in _BLOCKED:
            code = f", exit status {last['exitCode']}" if "exitCode" in last else ""
            return f"{waiting['reason']}{code}: {waiting.get('message', '')}".rstrip(": ")
        if "running" in state and not each.get("ready") and last.get("exitCode"):
            return f"restarted {each.get('restartCount', 1)} times, the last time after exit status {last['exitCode']}"
    return ""


def operator_lease(sight: Sight) -> Iterator[Finding]:
    """One operator leads, and has said so lately."""
    if sight.leases is None:
        message = "leases cannot be seen"
        yield Finding("operator", Level.UNKNOWN, message, f"kubectl -n {sight.namespace} auth can-i list leases")
        return
    if not any(component(each) == "operator" for each in sight.workloads or ()):
        return
    mend = f"kubectl -n {sight.namespace} logs -l app.kubernetes.io/component=operator --tail 50"
    if not sight.leases:
        yield Finding("operator", Level.ERROR, "no operator has ever led", mend)
    for lease in sight.leases:
        spec = lease["spec"]
        holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
        if not holder or not renewed:
            yield Finding("operator", Level.ERROR, "no operator leads", mend)
            continue
        age_s = sight.now_s - datetime.datetime.fromisoformat(renewed).timestamp()
        if age_s > spec.get("leaseDurationSeconds", 15):
            yield Finding("operator", Level.ERROR, f"{holder} led, and has been silent for {age_s:.0f} s", mend)
        else:
            yield Finding("operator", Level.OK, f"{holder} leads, renewed {max(0.0, age_s):.0f} s ago")


def redis(sight: Sight) -> Iterator[Finding]:
    """Redis keeps its data, and gateways reach it."""
    bundled = [each for each in sight.workloads or () if component(each) == "redis"]
    for each in bundled:
        if not each["spec"].get("volumeClaimTemplates"):
            mend = "helm upgrade ... --set redis.bundled.storage.enabled=true (after deleting the StatefulSet)"
            yield Finding("redis", Level.WARNING, "Redis keeps nothing on disk: a restart begins empty", mend)
        else:
            yield Finding("redis", Level.OK, "Redis keeps its data on a volume")
    for secret, user in sorted(_secrets(sight).items()):
        if sight.secrets is not None and secret not in sight.secrets:
            message = f"Secret {secret} is not there; {user} needs it"
            mend = f"kubectl -n {sight.namespace} create secret generic {secret} --from-literal=url=redis://..."
            yield Finding("redis", Level.ERROR, message, mend)
    lost = [each.pod for each in sight.gateways if any("registry-lost" in line for line in each.degraded)]
    if lost:
        mend = f"kubectl -n {sight.namespace} get pods,pvc -l app.kubernetes.io/component=redis"
        yield Finding(
            "redis", Level.ERROR, f"{', '.join(lost)} {'does' if len(lost) == 1 else 'do'} not reach Redis", mend
        )
    elif any(each.reached for each in sight.gateways):
        yield Finding("redis", Level.OK, "gateways reach Redis")


def _secrets(sight: Sight) -> dict[str, str]:
    """Secrets that the release's Pods name, and one component that does."""
    found = {}
    for each in sight.workloads or ():
        pod = each["spec"]["template"]["spec"]
        for container in pod["containers"]:
            for variable in container.get("env", ()):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference and not reference.get("optional"):
                    found[reference["name"]] = component(each)
        for volume in pod.get("volumes", ()):
            if "secret" in volume and not volume["secret"].get("optional"):
                found[volume["secret"]["secretName"]] = component(each)
    return found


def gateways(sight: Sight) -> Iterator[Finding]:
    """Gateways answer, and are not degraded."""
    for each in sight.gateways:
        # Without Redis nothing is shared either; `redis` has told of it.
        lost = any("registry-lost" in line for line in each.degraded)
        others = [line for line in each.degraded if not (lost and ("registry-lost" in line or "sharing-lost" in line))]
        if not each.reached:
            message = f"{each.pod} was not reached through the API server: nothing is known of its view"
            yield Finding("gateways", Level.UNKNOWN, message, "kubectl auth can-i get pods/proxy")
        elif others:
            mend = "penstock status; docs/routing.md says what each mode means"
            yield Finding("gateways", Level.WARNING, f"{each.pod} is degraded: {'; '.join(others)}", mend)
        elif not lost:
            yield Finding("gateways", Level.OK, f"{each.pod} answers")


def models(sight: Sight) -> Iterator[Finding]:
    """Every ModelDeployment is ready, or says why not."""
    if sight.models is None:
        yield Finding("models", Level.UNKNOWN, "ModelDeployments cannot be seen", "kubectl auth can-i list md")
        return
    for each in sight.models:
        namespace = each["metadata"]["namespace"]
        shown = f"{namespace}/{name(each)}"
        mend = f"kubectl -n {namespace} describe md {name(each)}"
        conditions = {item["type"]: item for item in each.get("status", {}).get("conditions", ())}
        ready = conditions.get("Ready")
        if ready is None or each["status"].get("observedGeneration", 0) < each["metadata"].get("generation", 0):
            yield Finding("models", Level.WARNING, f"{shown}: no operator has looked at it", mend)
        elif ready["status"] == "True":
            yield Finding("models", Level.OK, f"{shown}: {ready['message']}")
        else:
            yield Finding("models", Level.WARNING, f"{shown}: {ready['reason']}: {ready['message']}", mend)
        for kind in ("UpToDate", "Routed", "Published"):
            said = conditions.get(kind)
            if said is not None and said["status"] == "False":
                cause, _, step = said["message"].partition(" -> ")
                yield Finding("models", Level.WARNING, f"{shown}: {said['reason']}: {cause}", step or mend)
    for each in sight.workers or ():
        if reason := problem(each):
            namespace = each["metadata"]["namespace"]
            mend = f"kubectl -n {namespace} describe pod {name(each)}"
            yield Finding("models", Level.WARNING, f"worker {namespace}/{name(each)}: {reason}", mend)
    if not sight.models:
        yield Finding("models", Level.OK, "no model is asked for yet", "kubectl apply -f MODELDEPLOYMENT.yaml")

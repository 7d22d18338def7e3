"""The checks of the installed release: its workloads, its operator's rights and lease, Redis, gateways, models."""

from __future__ import annotations

import collections
import datetime
from collections.abc import Iterator

from controller.doctor import pods
from controller.doctor.sight import Finding, Level, Object, Sight, component, name

# Of a long list, as many are told.
_SHOWN = 5
_NAME = "app.kubernetes.io/name"
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
        mend = f"{upgrade(sight)}  # makes its roles and bindings anew"
        yield Finding("rights", Level.ERROR, message, mend)
    if unknown:
        message = "what the operator may do cannot be seen"
        yield Finding("rights", Level.UNKNOWN, message, "kubectl auth can-i create subjectaccessreviews")
    elif not denied:
        yield Finding("rights", Level.OK, f"the operator may do all {len(sight.rights)} things that it does")


def workloads(sight: Sight) -> Iterator[Finding]:
    """Every component of the release runs, in the number that is wanted."""
    if sight.workloads is None:
        message = f"Deployments, StatefulSets or DaemonSets in {sight.namespace} cannot be seen"
        yield Finding("release", Level.UNKNOWN, message, f"kubectl auth can-i --list -n {sight.namespace}")
        return
    present = {component(each) for each in sight.workloads}
    if not present:
        yield from _nothing(sight)
        return
    yield from _operators(sight, present)
    for missing in (each for each in _NEEDED if each not in present):
        level, switch = (Level.WARNING, " --set operator.enabled=true") if missing == "operator" else (Level.ERROR, "")
        yield Finding("release", level, f"there is no {missing}", upgrade(sight) + switch)
    for each in sight.workloads:
        wanted, ready = _numbers(each)
        shown = f"{component(each)}: {ready} of {wanted} ready"
        if not wanted and component(each) == "node-agent":
            # One that was made just now has not been counted for yet.
            if each.get("status", {}).get("observedGeneration"):
                mend = f"{upgrade(sight)} --set nodeAgent.pods.nodeSelector=null  # or nodeAgent.pods.affinity=null"
                message = "node-agent: no node is one that its nodeSelector and affinity take"
                yield Finding("release", Level.WARNING, message, mend)
            continue
        if not wanted:
            kind, number = ("statefulset", 1) if component(each) == "redis" else ("deployment", 2)
            mend = f"kubectl -n {sight.namespace} scale {kind} {name(each)} --replicas={number}"
            yield Finding("release", Level.ERROR, f"{component(each)}: scaled to 0 replicas", mend)
            continue
        problems = [found for pod in _pods(sight, each) if (found := pods.problem(pod))]
        reasons = sorted({found.shown for found in problems})
        # A roll-out that does not get on leaves the old Pods ready: as many as are wanted, and one that is not.
        if ready >= wanted and not reasons:
            yield Finding("release", Level.OK, shown)
            continue
        level = Level.WARNING if ready else Level.ERROR
        mend = pods.mend_component(each, problems[0] if problems else None)
        yield Finding("release", level, f"{shown}: {'; '.join(reasons) or 'no Pod says why'}", mend)


def _operators(sight: Sight, present: set[str]) -> Iterator[Finding]:
    """One operator looks after each namespace; where another release's looks after this one, it counts as present."""
    own = [each for each in sight.workloads or () if component(each) == "operator"]
    others = sorted(
        (each for each in sight.elsewhere or () if component(each) == "operator"),
        key=lambda each: str(each["metadata"]["namespace"]),
    )
    if not own:
        for each in others:
            if _namespaces(each) & {"*", sight.namespace}:
                where = each["metadata"]["namespace"]
                yield Finding("release", Level.OK, f"the operator of the release in {where} is this one's too")
                present.add("operator")
                return
    for each in others:
        for one in own:
            shared = _shared(_namespaces(one), _namespaces(each))
            if shared:
                where = each["metadata"]["namespace"]
                message = (
                    f"the operator of the release in {where} looks after {shared} too: they undo each other's work"
                )
                mend = f"{upgrade(sight)} --set operator.enabled=false  # or operator.settings.namespaces in both"
                yield Finding("release", Level.ERROR, message, mend)


def _namespaces(operator: Object) -> set[str]:
    """What it looks after, as the chart writes it on the Deployment; of an older chart, all."""
    named = operator["metadata"].get("annotations", {}).get("penstock.dev/namespaces", "*")
    return set(named.split(","))


def _shared(first: set[str], second: set[str]) -> str:
    """The namespaces that both look after, in words; empty for none."""
    if "*" in first & second:
        return "all namespaces"
    found = second if "*" in first else first if "*" in second else first & second
    return ", ".join(sorted(found))


def _numbers(workload: Object) -> tuple[int, int]:
    """Pods that are wanted, and that are ready; a DaemonSet has them in its status alone."""
    status = workload.get("status", {})
    if "desiredNumberScheduled" in status:
        return status["desiredNumberScheduled"], status.get("numberReady", 0)
    return workload["spec"].get("replicas", 1), status.get("readyReplicas", 0)


def _pods(sight: Sight, workload: Object) -> list[Object]:
    """Those of one workload: a namespace may hold others' components of the same name."""
    own = component(workload), pods.release(workload)
    return [each for each in sight.pods or () if (component(each), pods.release(each)) == own]


def upgrade(sight: Sight) -> str:
    """The same release and values, made anew."""
    return _release(sight).upgrade


def _release(sight: Sight) -> pods.Release:
    names = {pods.release(each) for each in sight.workloads or ()}
    return pods.Release(min(names, default="RELEASE"), sight.namespace)


def _nothing(sight: Sight) -> Iterator[Finding]:
    """There is no release here: where there is one, and what one that is gone has left."""
    message = f"Penstock is not installed in namespace {sight.namespace}"
    others = sorted({each["metadata"]["namespace"] for each in sight.elsewhere or ()})
    if others:
        yield Finding(
            "release", Level.ERROR, f"{message}; it is in {', '.join(others)}", f"penstock doctor -n {others[0]}"
        )
        return
    install = f"helm install penstock helm/penstock -n {sight.namespace} --create-namespace"
    yield Finding("release", Level.ERROR, message, f"{install}  # or give -n NAMESPACE")
    # Where other namespaces cannot be seen, what is here may be another release's.
    if sight.elsewhere is None:
        return
    own = [each for each in sight.claims or () if each["metadata"].get("labels", {}).get(_NAME) == "penstock"]
    things = [*(f"pvc/{name(each)}" for each in own), *(f"secret/{each}" for each in sorted(sight.kept_secrets))]
    if things:
        message = f"left by an installation, and taken up again by the next of its name: {', '.join(things)}"
        yield Finding("left", Level.WARNING, message, f"kubectl -n {sight.namespace} delete {' '.join(things)}")
    models = [name(each) for each in sight.models or () if each["metadata"]["namespace"] == sight.namespace]
    if models:
        count = sum(each["metadata"]["namespace"] == sight.namespace for each in sight.workers or ())
        more = f", and {len(models) - _SHOWN} more" if len(models) > _SHOWN else ""
        message = (
            f"ModelDeployments {', '.join(models[:_SHOWN])}{more} with {count} Pods go on, and no operator sees to them"
        )
        gone = f"kubectl -n {sight.namespace} delete md {' '.join(models[:_SHOWN])}"
        yield Finding("left", Level.WARNING, message, f"{install}  # or, if nobody needs them: {gone}")


def operator_lease(sight: Sight) -> Iterator[Finding]:
    """One operator leads, and has said so lately."""
    if sight.leases is None:
        message = "leases cannot be seen"
        yield Finding("operator", Level.UNKNOWN, message, f"kubectl -n {sight.namespace} auth can-i list leases")
        return
    own = [name(each) for each in sight.workloads or () if component(each) == "operator"]
    if not own:
        return
    inside = f"kubectl -n {sight.namespace}"
    mend = f"{inside} rollout restart deployment {own[0]}  # {inside} logs deployment/{own[0]} says why"
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
            delete = f"kubectl -n {sight.namespace} delete statefulset {name(each)}"
            mend = f"{delete} && {upgrade(sight)} --set redis.bundled.storage.enabled=true"
            yield Finding("redis", Level.WARNING, "Redis keeps nothing on disk: a restart begins empty", mend)
        else:
            yield Finding("redis", Level.OK, "Redis keeps its data on a volume")
    for secret, (user, kind, given) in sorted(_secrets(sight).items()):
        if sight.secrets is not None and secret not in sight.secrets:
            message = f"Secret {secret} is not there; {user} needs it"
            make = f"kubectl -n {sight.namespace} create secret {kind} {secret} {given}"
            mend = upgrade(sight) if secret.endswith(_MADE) else make
            yield Finding("redis" if given.startswith(_URL) else "release", Level.ERROR, message, mend)
    lost = [each.pod for each in sight.gateways if any("registry-lost" in line for line in each.degraded)]
    if lost:
        yield Finding(
            "redis",
            Level.ERROR,
            f"{', '.join(lost)} {'does' if len(lost) == 1 else 'do'} not reach Redis",
            _redis_mend(sight, bundled),
        )
    elif any(each.reached for each in sight.gateways):
        yield Finding("redis", Level.OK, "gateways reach Redis")


def _redis_mend(sight: Sight, bundled: list[Object]) -> str:
    inside = f"kubectl -n {sight.namespace}"
    if not bundled:
        secret = _url_secret(sight) or "SECRET"
        return f"{inside} get secret {secret} -o jsonpath={{.data.url}} | base64 -d  # shows the password: is this the Redis?"
    if not bundled[0]["spec"].get("replicas", 1):
        return f"{inside} scale statefulset {name(bundled[0])} --replicas=1"
    if not bundled[0]["spec"].get("volumeClaimTemplates"):
        # A restart would lose what it holds.
        return f"{inside} describe pods -l app.kubernetes.io/component=redis"
    return f"{inside} rollout restart statefulset {name(bundled[0])}"


def _url_secret(sight: Sight) -> str:
    """The Secret of the URL of Redis, as the gateways name it."""
    for each in sight.workloads or ():
        for container in each["spec"]["template"]["spec"]["containers"]:
            for variable in container.get("env", ()):
                if variable["name"].endswith("REDIS_URL") and "secretKeyRef" in variable.get("valueFrom", {}):
                    return str(variable["valueFrom"]["secretKeyRef"]["name"])
    return ""


_URL = "--from-literal=url=redis://..."
# Those that the chart or cert-manager makes.
_MADE = ("-gateway-tls", "-agent-client", "-agent-tls")
# What a Secret is made of, by the name of the volume that has it.
_FILES = {
    "keys": ("generic", "--from-file=keys"),
    "tls": ("generic", "--from-file=tls.crt --from-file=tls.key --from-file=ca.crt"),
    "agent-client": ("generic", "--from-file=tls.crt --from-file=tls.key --from-file=ca.crt"),
    "redis-ca": ("generic", "--from-file=ca.crt"),
    "auth": ("generic", f"{_URL} --from-literal=auth.conf='requirepass PASSWORD'"),
}


def _secrets(sight: Sight) -> dict[str, tuple[str, str, str]]:
    """Secrets that the release's Pods name: one component that does, and what kubectl makes them of."""
    found: dict[str, tuple[str, str, str]] = {}
    for each in sight.workloads or ():
        for volume in each["spec"]["template"]["spec"].get("volumes", ()):
            if "secret" in volume and not volume["secret"].get("optional"):
                how = _FILES.get(volume["name"], ("generic", "--from-file=..."))
                if component(each) == "gateway" and volume["name"] == "tls":
                    how = ("tls", "--cert=tls.crt --key=tls.key")
                found.setdefault(volume["secret"]["secretName"], (component(each), *how))
    # Of what no volume has, the URL is named alone.
    for each in sight.workloads or ():
        for container in each["spec"]["template"]["spec"]["containers"]:
            for variable in container.get("env", ()):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference and not reference.get("optional"):
                    found.setdefault(reference["name"], (component(each), "generic", _URL))
    return found


_LOGS = "kubectl -n {namespace} logs -l app.kubernetes.io/component=gateway --tail 20"
# What to type where a gateway is degraded: all modes but that of Redis, which has a check of its own.
_MODES = collections.defaultdict(
    lambda: "penstock status",
    {
        "endpoints-ejected": "kubectl get md -A; penstock status",
        "no-ready-endpoint": "kubectl get md -A",
        "policy-unknown": "kubectl get md -A -o custom-columns=NAME:.metadata.name,ROUTING:.spec.routing",
        "saturated": "kubectl get md -A; kubectl -n NAMESPACE scale md NAME --replicas=MORE",
        "sharing-lost": _LOGS,
        "index-gap": _LOGS,
    },
)


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
            mend = _MODES[others[0].partition(":")[0]].format(namespace=sight.namespace)
            mend += "  # docs/routing.md says what each mode means"
            yield Finding("gateways", Level.WARNING, f"{each.pod} is degraded: {'; '.join(others)}", mend)
        elif not lost:
            yield Finding("gateways", Level.OK, f"{each.pod} answers")


def models(sight: Sight) -> Iterator[Finding]:
    """Every ModelDeployment is ready, or says why not."""
    if sight.models is None:
        yield Finding("models", Level.UNKNOWN, "ModelDeployments cannot be seen", "kubectl auth can-i list md")
        return
    told: dict[tuple[str, str], str] = {}
    for each in sight.models:
        for found in _model(each, _release(sight)):
            yield found
            if found.level is not Level.OK:
                whose = each["metadata"]["namespace"], name(each)
                told[whose] = told.get(whose, "") + found.message
    for each in sight.workers or ():
        owner, problem = pods.owner(each), pods.problem(each)
        # What its deployment says of it need not be said twice.
        if problem is not None and problem.reason.partition(",")[0] not in told.get(owner, ""):
            message = f"worker {owner[0]}/{name(each)}: {problem.shown}"
            yield Finding("models", Level.WARNING, message, pods.mend_worker(each, problem, _release(sight)))
    if not sight.models:
        yield Finding("models", Level.OK, "no model is asked for yet", "kubectl apply -f MODELDEPLOYMENT.yaml")


# Conditions of a model besides Ready, and the reasons of them that are a fault.
_CONDITIONS = ("Progressing", "UpToDate", "Routed", "Published")
_MOVING = frozenset({"RolloutBlocked"})


def _model(found: Object, own: pods.Release) -> Iterator[Finding]:
    """What the conditions of one say."""
    namespace = found["metadata"]["namespace"]
    shown = f"{namespace}/{name(found)}"
    look = f"kubectl -n {namespace} describe md {name(found)}"
    conditions = {item["type"]: item for item in found.get("status", {}).get("conditions", ())}
    ready = conditions.get("Ready")
    if ready is None or found["status"].get("observedGeneration", 0) < found["metadata"].get("generation", 0):
        yield Finding("models", Level.WARNING, f"{shown}: no operator has looked at it", look)
        return
    if ready["status"] == "True":
        yield Finding("models", Level.OK, f"{shown}: {ready['message']}")
    wrong = [] if ready["status"] == "True" else [ready]
    for kind in _CONDITIONS:
        # Workers that keep the model from being ready are told of once, not as a roll-out's too.
        if kind in conditions and _fault(conditions[kind]) and not (wrong and conditions[kind]["reason"] in _MOVING):
            wrong.append(conditions[kind])
    for each in wrong:
        for cause, step in _causes(each["message"]):
            mend = pods.mend_model(namespace, name(found), cause, step, own) if step else look
            yield Finding("models", Level.WARNING, f"{shown}: {each['reason']}: {cause}", mend)


def _causes(message: str) -> Iterator[tuple[str, str]]:
    """Each cause of `cause -> step; cause -> step` with its step; empty where it has none."""
    cause, *more = message.split(" -> ")
    for each in more[:-1]:
        step, _, following = each.partition("; ")
        yield cause, step
        cause = following
    yield cause, more[-1] if more else ""


def _fault(condition: Object) -> bool:
    return condition["status"] == "False" or condition["reason"] in _MOVING

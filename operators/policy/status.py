"""What a status says: conditions that change their time only with their value, and the counts of workers."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Literal

from operators.policy import accelerators, problems, rollout, routes, workers
from penstock.api.crds import base, modeldeployment, values

READY = "Ready"
PROGRESSING = "Progressing"
UP_TO_DATE = "UpToDate"
PUBLISHED = "Published"
ACTED_ON = "ActedOn"


def condition(
    before: Sequence[base.Condition],
    kind: str,
    holds: bool | None,
    reason: str,
    message: str,
    generation: int,
    now_s: float,
) -> base.Condition:
    """A condition whose transition time is that of its last change of value. `holds` None: unknown."""
    value: Literal["True", "False", "Unknown"] = "Unknown" if holds is None else "True" if holds else "False"
    same = next((each for each in before if each.type == kind and each.status == value), None)
    now = timestamp(now_s)
    return base.Condition(
        type=kind,
        status=value,
        observed_generation=generation,
        last_transition_time=same.last_transition_time if same else now,
        reason=reason,
        message=message,
    )


@dataclasses.dataclass(frozen=True)
class Report:
    """What the pass has found out that the status tells."""

    held: str
    decision: rollout.Decision
    placements: Mapping[str, accelerators.Placement] = dataclasses.field(default_factory=dict)
    # Why a worker cannot be made.
    problem: problems.Problem | None = None
    # What could not be kept beside the workers.
    unkept: Sequence[problems.Problem] = ()
    # Of the route from Gateways, where one is asked for.
    route: routes.Said | None = None
    # Workers whose image is not the default that a new one would get: the image that each has, and the default.
    older: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)


def state_of(deployment: modeldeployment.ModelDeployment, observed: workers.Observed) -> rollout.State:
    """What the status remembers of the roll-out. One that is empty is taken from workers that serve."""
    before, said = deployment.status, deployment.status.rollout
    revision = before.revision
    if not before.observed_generation and not revision:
        serving = {worker.revision for worker in observed.workers if worker.live and worker.ready}
        revision = serving.pop() if len(serving) == 1 else ""
    return rollout.State(
        revision=revision,
        update=before.update_revision,
        rejected=said.rejected,
        cause=said.cause,
        progress_s=_unix_s(said.progress_time) or 0.0,
        updated_ready=said.updated_ready,
        remaining=said.remaining,
        canary_s=_unix_s(said.canary_time),
        canary_passed=said.canary_passed,
        fault_s=_unix_s(said.fault_time),
        phase=said.phase,
    )


def rollout_of(
    deployment: modeldeployment.ModelDeployment, newest: str, pools: tuple[workers.Pool, ...]
) -> rollout.Wanted:
    """What the specification says about the roll-out to its newest revision."""
    spec = deployment.spec.rollout
    canary = spec.canary
    return rollout.Wanted(
        newest,
        pools,
        values.duration_s(spec.progress_deadline),
        canary.percent / 100 if canary else None,
        values.duration_s(canary.watch_for) if canary else 0.0,
        spec.on_failure == "RollBack",
        spec.paused,
    )


def of_deployment(
    deployment: modeldeployment.ModelDeployment, observed: workers.Observed, report: Report, now_s: float
) -> modeldeployment.Status:
    """The status of a model deployment whose workers are these."""
    desired = workers.Desired.of(deployment)
    state = report.decision.state
    roles = tuple(
        _role(pool, observed.workers, state.update, report.placements.get(pool.role)) for pool in desired.pools
    )
    wanted, ready = sum(role.wanted for role in roles), sum(role.ready for role in roles)
    problem = report.problem
    reason, message = (problem.reason, problem.message) if problem else _cause(roles, observed, report.held)
    generation, before = deployment.metadata.generation, deployment.status.conditions
    moving, why, said = _progress(report.decision, observed)
    conditions = [
        condition(before, READY, reason == "AllReady", reason, message, generation, now_s),
        condition(before, PROGRESSING, moving, why, said, generation, now_s),
    ]
    if report.route is not None:
        route = report.route
        conditions.append(condition(before, routes.ROUTED, route.holds, route.reason, route.message, generation, now_s))
    told = {each.type for each in before}
    if report.unkept or PUBLISHED in told:
        why, said = _published(report.unkept)
        conditions.append(condition(before, PUBLISHED, not report.unkept, why, said, generation, now_s))
    if report.older or UP_TO_DATE in told:
        why, said = _age(deployment, report.older, sum(role.present for role in roles))
        conditions.append(condition(before, UP_TO_DATE, not report.older, why, said, generation, now_s))
    unbuilt = unbuilt_fields(deployment.spec)
    if unbuilt or ACTED_ON in told:
        why, said = _acted_on(unbuilt)
        conditions.append(condition(before, ACTED_ON, not unbuilt, why, said, generation, now_s))
    return modeldeployment.Status(
        observed_generation=generation,
        conditions=tuple(conditions),
        replicas=_sets(deployment, {role.name: role.present for role in roles}),
        ready_replicas=_sets(deployment, {role.name: role.ready for role in roles}),
        workers=f"{ready}/{wanted}",
        selector=f"penstock.dev/deployment={deployment.metadata.name}",
        roles=roles,
        revision=state.revision,
        update_revision=state.update,
        rollout=_remembered(report.decision),
        older_images=len(report.older),
    )


def unbuilt_fields(spec: modeldeployment.Spec) -> tuple[str, ...]:
    """Fields that are given, and that nothing acts on in this version."""
    given = {
        "spec.scaling": spec.scaling is not None,
        "spec.roles[].scaling": any(role.scaling is not None for role in spec.roles),
        "spec.priority": spec.priority != 0,
        "spec.kvCache.tier": spec.kv_cache.tier is not None,
        "spec.model.tokenizer": spec.model.tokenizer is not None,
        "spec.sloClasses[].priority": any(each.priority != 0 for each in spec.slo_classes),
    }
    return tuple(name for name, there in given.items() if there)


def _acted_on(unbuilt: Sequence[str]) -> tuple[str, str]:
    """Reason and message of the ActedOn condition, which is there since a field was given that nothing acts on."""
    if not unbuilt:
        return "AllFields", "no field is given that nothing acts on"
    return "NotYetImplemented", f"{', '.join(unbuilt)}: checked and kept, but nothing acts on it in this version"


def _published(unkept: Sequence[problems.Problem]) -> tuple[str, str]:
    """Reason and message of the Published condition, which is there since something could first not be kept."""
    if not unkept:
        return "AllKept", "Service, EndpointSlices, disruption budgets and InferencePool are as wanted"
    return unkept[0].reason, "; ".join(each.message for each in unkept)[:1000]


def _age(
    deployment: modeldeployment.ModelDeployment, older: Mapping[str, tuple[str, str]], present: int
) -> tuple[str, str]:
    """Reason and message of the UpToDate condition, which is there since workers have first been older than the operator."""
    if not older:
        return "ImagesCurrent", "all workers run the images that a new one would"
    pairs = sorted({f"{has} in place of {default}" for has, default in older.values()})
    step = f"penstock rollout restart {deployment.metadata.name} -n {deployment.metadata.namespace}"
    return "OlderImages", f"{len(older)} of {present} workers run {', '.join(pairs)} -> {step}"[:1000]


def _progress(decision: rollout.Decision, observed: workers.Observed) -> tuple[bool, str, str]:
    """Value, reason and message of the Progressing condition, in the manner of a Deployment's.

    While the old workers serve, Ready stays True: what keeps the new ones from running is told here, and at once.
    """
    failed = decision.phase in (rollout.Phase.STOPPED, rollout.Phase.ROLLED_BACK)
    new = [worker for worker in observed.workers if worker.revision == decision.state.update]
    blocked = sorted({worker.problem for worker in new if _tells(worker)})
    if blocked and decision.phase in (rollout.Phase.PROGRESSING, rollout.Phase.CANARY):
        return True, "RolloutBlocked", f"{decision.message}; {'; '.join(blocked)}"[:1000]
    reason = "RolloutComplete" if decision.phase is rollout.Phase.COMPLETE else f"Rollout{decision.phase.value}"
    return not failed, reason, decision.message[:1000]


def _remembered(decision: rollout.Decision) -> modeldeployment.RolloutStatus:
    state = decision.state
    return modeldeployment.RolloutStatus(
        phase=decision.phase.value,
        rejected=state.rejected,
        cause=state.cause[:2000],
        progress_time=timestamp(state.progress_s) if state.progress_s else None,
        updated_ready=state.updated_ready,
        remaining=state.remaining,
        canary_time=None if state.canary_s is None else timestamp(state.canary_s),
        canary_passed=state.canary_passed,
        fault_time=None if state.fault_s is None else timestamp(state.fault_s),
    )


def _role(
    pool: workers.Pool, members: Sequence[workers.Worker], update: str, placement: accelerators.Placement | None
) -> modeldeployment.RoleStatus:
    live = [worker for worker in members if worker.role == pool.role and worker.live]
    placed = placement is not None and placement.profile != ""
    return modeldeployment.RoleStatus(
        name=pool.role,
        wanted=pool.wanted,
        present=len(live),
        ready=sum(worker.ready for worker in live),
        updated=sum(worker.revision == update for worker in live),
        accelerator=placement.profile if placement is not None else "",
        accelerator_since=timestamp(placement.since_s) if placement is not None and placed else None,
    )


def _sets(deployment: modeldeployment.ModelDeployment, counts: dict[str, int]) -> int:
    """How many times the roles are there in full."""
    full = [counts[role.name] // role.replicas for role in deployment.spec.roles if role.replicas > 0]
    return min(full, default=0)


def _cause(roles: Sequence[modeldeployment.RoleStatus], observed: workers.Observed, held: str) -> tuple[str, str]:
    """Reason and message of the Ready condition."""
    problems = sorted({worker.problem for worker in observed.workers if _tells(worker)})
    missing = [f"{role.ready} of {role.wanted} {role.name}" for role in roles if role.ready < role.wanted]
    if missing and problems:
        return "WorkersBlocked", f"{', '.join(missing)} ready: {'; '.join(problems)}"[:1000]
    if missing:
        return "WorkersStarting", f"{', '.join(missing)} workers are ready"
    if held:
        return "AllReady", f"all workers are ready; {held}"
    return "AllReady", "all workers are ready"


def _tells(worker: workers.Worker) -> bool:
    """Whether it says what keeps a worker from running: one that has failed does until it is deleted."""
    failed = worker.phase is workers.Phase.FAILED and not worker.deleting
    return bool(worker.problem) and (worker.live or failed)


def timestamp(at_s: float) -> str:
    """A time as Kubernetes writes it, to the second."""
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _unix_s(text: str | None) -> float | None:
    return datetime.datetime.fromisoformat(text).timestamp() if text else None


def not_yet(status: base.Status, generation: int, kind: str, now_s: float) -> base.Condition:
    """What a kind reports whose behaviour is not built."""
    message = f"{kind} is checked and kept, but nothing acts on it in this version"
    return condition(status.conditions, READY, False, "NotYetImplemented", message, generation, now_s)

"""What a status says: conditions that change their time only with their value, and the counts of workers."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from operators.policy import workers
from penstock.api.crds import base, modeldeployment

READY = "Ready"


def condition(
    before: Sequence[base.Condition], kind: str, holds: bool, reason: str, message: str, generation: int, now_s: float
) -> base.Condition:
    """A condition whose transition time is that of its last change of value."""
    value = "True" if holds else "False"
    same = next((each for each in before if each.type == kind and each.status == value), None)
    now = datetime.datetime.fromtimestamp(now_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return base.Condition(
        type=kind,
        status="True" if holds else "False",
        observed_generation=generation,
        last_transition_time=same.last_transition_time if same else now,
        reason=reason,
        message=message,
    )


def of_deployment(
    deployment: modeldeployment.ModelDeployment, observed: workers.Observed, held: str, now_s: float
) -> modeldeployment.Status:
    """The status of a model deployment whose workers are these."""
    desired = workers.Desired.of(deployment)
    roles = tuple(_role(pool, observed.workers) for pool in desired.pools)
    wanted, ready = sum(role.wanted for role in roles), sum(role.ready for role in roles)
    reason, message = _cause(roles, observed, held)
    generation = deployment.metadata.generation
    return modeldeployment.Status(
        observed_generation=generation,
        conditions=(
            condition(deployment.status.conditions, READY, reason == "AllReady", reason, message, generation, now_s),
        ),
        replicas=_sets(deployment, {role.name: role.present for role in roles}),
        ready_replicas=_sets(deployment, {role.name: role.ready for role in roles}),
        workers=f"{ready}/{wanted}",
        selector=f"penstock.dev/deployment={deployment.metadata.name}",
        roles=roles,
    )


def _role(pool: workers.Pool, members: Sequence[workers.Worker]) -> modeldeployment.RoleStatus:
    own = [worker for worker in members if worker.role == pool.role]
    live = [worker for worker in own if worker.live]
    return modeldeployment.RoleStatus(
        name=pool.role, wanted=pool.wanted, present=len(live), ready=sum(worker.ready for worker in live)
    )


def _sets(deployment: modeldeployment.ModelDeployment, counts: dict[str, int]) -> int:
    """How many times the roles are there in full."""
    full = [counts[role.name] // role.replicas for role in deployment.spec.roles if role.replicas > 0]
    return min(full, default=0)


def _cause(roles: Sequence[modeldeployment.RoleStatus], observed: workers.Observed, held: str) -> tuple[str, str]:
    """Reason and message of the Ready condition."""
    problems = sorted({worker.problem for worker in observed.workers if worker.live and worker.problem})
    missing = [f"{role.ready} of {role.wanted} {role.name}" for role in roles if role.ready < role.wanted]
    if missing and problems:
        return "WorkersBlocked", f"{', '.join(missing)} ready: {'; '.join(problems)}"[:1000]
    if missing:
        return "WorkersStarting", f"{', '.join(missing)} workers are ready"
    if held:
        return "AllReady", f"all workers are ready; {held}"
    return "AllReady", "all workers are ready"


def not_yet(status: base.Status, generation: int, kind: str, now_s: float) -> base.Condition:
    """What a kind reports whose behaviour is not built."""
    message = f"{kind} is checked and kept, but nothing acts on it in this version"
    return condition(status.conditions, READY, False, "NotYetImplemented", message, generation, now_s)

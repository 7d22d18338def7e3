"""Brings a ModelDeployment's workers to what is wanted: look, decide, act, say."""

from __future__ import annotations

import asyncio
import dataclasses
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import pydantic

from operators import events, fleets, images, keeping, kube, pods, refused, revisions, sight, units
from operators import published as publishing
from operators.policy import accelerators, problems, rollout, routes, status, workers
from penstock.api import invalid, types
from penstock.api.crds import acceleratorprofile, base, modeldeployment, values
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs

Object = dict[str, Any]

# An object that is not as wanted, and of which nothing tells, is looked at again after so long.
UNSETTLED_S = 15.0


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What was seen at one moment, and what follows from it."""

    deployment: modeldeployment.ModelDeployment
    seen: sight.Seen
    observed: workers.Observed
    decision: rollout.Decision
    placements: dict[str, accelerators.Placement]
    plan: workers.Plan
    newest: str

    def worker(self, name: str) -> Object:
        """The object of a worker: its Pod, or the unit of its ranks."""
        return self._found(name)[1]

    def kind(self, name: str) -> sight.Kind:
        """What that object is."""
        return self._found(name)[0]

    def _found(self, name: str) -> tuple[sight.Kind, Object]:
        return next(
            (kind, each) for kind in sight.WORKERS for each in self.seen.of(kind) if each["metadata"]["name"] == name
        )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Whether all is as wanted, and when to look again where nothing else tells."""

    settled: bool
    again_s: float | None = None


class Verdicts(Protocol):
    """The port by which latencies of revisions are compared."""

    async def of(self, deployment: modeldeployment.ModelDeployment, old: str, new: str) -> rollout.Verdict:
        """What the latencies of both revisions say."""


class Unknowing:
    """The twin: it knows nothing, or what it is told."""

    def __init__(self, verdict: rollout.Verdict = rollout.Verdict.UNKNOWN) -> None:
        self.verdict = verdict

    async def of(self, deployment: modeldeployment.ModelDeployment, old: str, new: str) -> rollout.Verdict:
        """See `Verdicts`."""
        return self.verdict


class DeploymentReconciler:
    """One pass over one deployment; between passes it keeps nothing but what its events have told."""

    def __init__(
        self,
        client: kube.KubeClient,
        looking: sight.Sight,
        known: fleets.Fleets,
        clock: clocks.Clock,
        host: pods.WorkerHost,
        verdicts: Verdicts | None = None,
        done: Callable[[str], None] = lambda command: None,
        published: publishing.Published | None = None,
    ) -> None:
        """`done` hears of each command that was carried out; `published` is where gateways hear of deployments."""
        self._kube, self._sight, self._fleets, self._clock, self._host = client, looking, known, clock, host
        self._verdicts, self._done = verdicts or Unknowing(), done
        self._published = published or publishing.InMemory()
        # Names of workers that are being made.
        self._making: weakref.WeakValueDictionary[tuple[str, str], asyncio.Lock] = weakref.WeakValueDictionary()
        self._conditions = events.Conditions()
        self._log = logs.get("operator")

    async def reconcile(self, namespace: str, name: str) -> Outcome:
        """One pass. A deployment that is gone or being deleted is settled: Kubernetes takes what it owns.

        Raises `RetryableError` where the pass has to be made again, `TerminalError` where that would not help.
        """
        snapshot = await self._look(namespace, name)
        if snapshot is None:
            # A copy that lags does not know one that is new: gateways would not either.
            snapshot = await self._look(namespace, name, fresh=True)
        orphans = snapshot is not None and await self._adopt(snapshot)
        if snapshot is not None and (orphans or snapshot.plan.destructive):
            # What was decided on a copy is decided again on what is there.
            snapshot = await self._look(namespace, name, fresh=True)
        await self._publish(namespace, name, snapshot)
        if snapshot is None:
            self._conditions.forget(namespace, name)
            return Outcome(True)
        now_s = self._clock.now_s()
        unkept = await self._keep_revisions(snapshot)
        refused = await self._act(snapshot, now_s, creates=unkept is None)
        problem = unkept or refused
        kept = await keeping.keep(
            self._kube, self._sight, self._host, snapshot.deployment, snapshot.seen, snapshot.observed
        )
        # The status is what was seen before the commands: what they did is seen in the next pass, which they cause.
        await self._say(snapshot, problem, kept, now_s)
        for each in (*([problem] if problem else []), *kept.problems):
            raise errors.TerminalError(each.message)
        return _outcome(snapshot)

    async def _adopt(self, snapshot: Snapshot) -> bool:
        """Takes what bears the deployment's label and belongs to nobody; whether there was any."""
        deployment = snapshot.deployment
        for kind, each in snapshot.seen.orphans:
            meta = each["metadata"]
            change = {"resourceVersion": meta["resourceVersion"], "ownerReferences": [pods.owner(deployment)]}
            path = kind.path(deployment.metadata.namespace, meta["name"])
            self._sight.wrote(kind, await self._kube.merge(path, {"metadata": change}))
            self._log.info("adopted", kind=kind.name, object=meta["name"], deployment=deployment.metadata.name)
        return bool(snapshot.seen.orphans)

    async def _publish(self, namespace: str, name: str, snapshot: Snapshot | None) -> None:
        """Tells gateways in every pass: what Redis has lost is there again after the next one."""
        try:
            if snapshot is None:
                await self._published.remove(namespace, name)
            else:
                await self._published.put(snapshot.deployment)
        except errors.PenstockError as exc:
            # Also a Redis that refuses to write: workers are kept all the same.
            self._log.warning("deployment_not_told", namespace=namespace, deployment=name, reason=str(exc))
            if snapshot is None:
                # No other pass would come back to one that is gone.
                raise

    async def _look(self, namespace: str, name: str, *, fresh: bool = False) -> Snapshot | None:
        seen = await self._sight.look(namespace, name, fresh=fresh)
        if seen is None or "deletionTimestamp" in seen.document["metadata"]:
            return None
        try:
            deployment = modeldeployment.ModelDeployment.read(seen.document)
        except pydantic.ValidationError as exc:
            message = refused.message(modeldeployment.ModelDeployment, exc)
            await self._say_invalid(seen.document, message)
            raise errors.TerminalError(f"{namespace}/{name}: {message}") from exc
        records = await (self._fleets.again if fresh else self._fleets.records)(namespace)
        newest = revisions.name_of(revisions.template(deployment))
        former = deployment.status.revision or newest
        states = {} if records is None else {each.id: each.state for each in records.values()}
        observed = workers.Observed(
            units.observed(
                seen, states, registry=records is not None, default_revision=former, now_s=self._clock.now_s()
            ),
            registry=records is not None,
        )
        return await self._decided(deployment, seen, observed, newest)

    async def _decided(
        self, deployment: modeldeployment.ModelDeployment, seen: sight.Seen, observed: workers.Observed, newest: str
    ) -> Snapshot:
        now_s = self._clock.now_s()
        desired = workers.Desired.of(deployment)
        state = status.state_of(deployment, observed)
        verdict = None
        if deployment.spec.slo_classes and state.revision not in ("", newest) and newest != state.rejected:
            verdict = await self._verdicts.of(deployment, state.revision, newest)
        wanted = status.rollout_of(deployment, newest, desired.pools)
        decision = rollout.decide(wanted, state, observed.workers, verdict, now_s, registry=observed.registry)
        placements = _placements(deployment, observed, now_s)
        chosen = {role: each.profile for role, each in placements.items()}
        plan = workers.reconcile(desired, observed, now_s, decision.rolling, chosen)
        stuck = [
            workers.Delete(name, placement.message or f"no node takes it; {placement.profile} is tried")
            for placement in placements.values()
            for name in placement.stuck
            if observed.registry and all(each.worker != name for each in plan.commands)
        ]
        plan = dataclasses.replace(plan, commands=(*plan.commands, *stuck))
        return Snapshot(deployment, seen, observed, decision, placements, plan, newest)

    async def _keep_revisions(self, snapshot: Snapshot) -> problems.Problem | None:
        """Keeps the newest revision before any worker of it is made, and forgets old ones beyond the limit."""
        try:
            await self._revise(snapshot)
        except (errors.FencedError, kube.UnauthorizedError):
            raise
        except errors.TerminalError as exc:
            return problems.of_object(sight.REVISION.name, snapshot.newest, str(exc))
        return None

    async def _revise(self, snapshot: Snapshot) -> None:
        deployment, namespace = snapshot.deployment, snapshot.deployment.metadata.namespace
        found = snapshot.seen.of(sight.REVISION)
        kept = revisions.by_name(found)
        state = snapshot.decision.state
        if snapshot.newest in kept:
            await self._renew(snapshot, kept[snapshot.newest], revisions.next_number(found))
        else:
            data = revisions.template(deployment)
            document = revisions.document(deployment, data, revisions.next_number(found))
            made = await self._kube.create(sight.REVISION.path(namespace), document)
            if made is not None:
                self._sight.wrote(sight.REVISION, made)
                found.append(made)
        used = {snapshot.newest, state.revision, state.update, *(each.revision for each in snapshot.observed.workers)}
        for each in revisions.outdated(found, used, deployment.spec.rollout.revision_history_limit):
            meta = each["metadata"]
            await self._kube.delete(sight.REVISION.path(namespace, meta["name"]), meta["uid"])

    async def _renew(self, snapshot: Snapshot, kept: Object, number: int) -> None:
        """A revision that comes again is the newest again, and one that all workers have had is one to go back to."""
        change: Object = {}
        if int(kept["revision"]) != number - 1:
            change["revision"] = number
        whole = (
            snapshot.decision.phase is rollout.Phase.COMPLETE and snapshot.decision.state.revision == snapshot.newest
        )
        serves = any(each.ready and each.revision == snapshot.newest for each in snapshot.observed.workers)
        if whole and serves and not revisions.has_served(kept):
            change["metadata"] = {"annotations": {revisions.SERVED_ANNOTATION: "true"}}
        if change:
            meta = kept["metadata"]
            change["metadata"] = change.get("metadata", {}) | {"resourceVersion": meta["resourceVersion"]}
            path = sight.REVISION.path(meta["namespace"], meta["name"])
            try:
                self._sight.wrote(sight.REVISION, await self._kube.merge(path, change))
            except (errors.FencedError, kube.UnauthorizedError):
                raise
            except errors.TerminalError as exc:
                # It is kept: only `penstock rollout undo` reads this.
                self._log.warning("revision_not_noted", revision=meta["name"], reason=str(exc))

    async def _act(self, snapshot: Snapshot, now_s: float, *, creates: bool) -> problems.Problem | None:
        """Carries the commands out, each safe to repeat. The first problem is returned, for the status.

        A creation that is refused holds up the others of its role, and what would be taken away for them unless room is what
        it takes. Nothing else is held up: fewer workers, ends of drains, what has failed.
        """
        first: problems.Problem | None = None
        refused: set[str] = set()
        # Roles whose workers are not to be taken away for others.
        waiting = set(snapshot.plan.replaced.values()) if not creates else set()
        for command in snapshot.plan.commands:
            if isinstance(command, workers.Create):
                if not creates or command.role in refused:
                    continue
            elif snapshot.plan.replaced.get(command.worker) in waiting:
                continue
            carried = True
            try:
                carried, problem = await self._carry_out(snapshot, command, now_s)
            except (errors.FencedError, kube.UnauthorizedError):
                raise
            except errors.TerminalError as exc:
                problem = problems.of_object(snapshot.kind(command.worker).name, command.worker, str(exc))
            if problem is not None:
                first = first or problem
                if isinstance(command, workers.Create):
                    refused.add(command.role)
                    if problem.reason != "QuotaExceeded":
                        waiting.add(command.role)
                continue
            if not carried:
                # It has changed meanwhile: what is to be done is decided again on what it is now.
                continue
            self._done(type(command).__name__)
            self._log.info("worker_command", command=type(command).__name__, **dataclasses.asdict(command))
            await self._tell(events.of_command(snapshot.deployment, command, now_s))
        return first

    async def _carry_out(
        self, snapshot: Snapshot, command: workers.Command, now_s: float
    ) -> tuple[bool, problems.Problem | None]:
        """Whether it was done, and what keeps it from being done."""
        match command:
            case workers.Create():
                return True, await self._create(snapshot, command)
            case workers.Drain():
                await self._drain(snapshot, command.worker, now_s)
            case workers.Delete():
                meta = snapshot.worker(command.worker)["metadata"]
                path = snapshot.kind(command.worker).path(meta["namespace"], command.worker)
                return await self._kube.delete(path, meta["uid"], meta["resourceVersion"]), None
        return True, None

    async def _create(self, snapshot: Snapshot, command: workers.Create) -> problems.Problem | None:
        namespace = snapshot.deployment.metadata.namespace
        try:
            template = self._template(snapshot, command.revision)
            profile = await self._profile(command.accelerator)
            kind, document = units.document(template, command, self._host, profile)
            if not self._sight.has(kind):
                raise pods.UnsupportedError(
                    f"the worker would be a {kind.name}, and the cluster does not know this kind -> install KubeRay"
                )
            # Passes over two deployments may come to one name at a time.
            async with self._making.setdefault((namespace, command.worker), asyncio.Lock()):
                rival = await self._rival(kind, snapshot, command.worker)
                if rival is not None:
                    return rival
                made = await self._kube.create(kind.path(namespace), document)
                if made is not None:
                    self._sight.wrote(kind, made)
                    return None
        except pods.UnsupportedError as exc:
            return problems.Problem("Unsupported", str(exc))
        except (errors.FencedError, kube.UnauthorizedError):
            raise
        except errors.TerminalError as exc:
            return problems.Problem(*problems.of_refusal(str(exc)))
        # There it is, unseen as yet: this operator's from an answer that was lost, or somebody else's.
        made = await self._kube.get(kind.path(namespace, command.worker))
        if made is not None and not _ours(made, snapshot.deployment):
            return _taken(kind, made, snapshot.deployment)
        if made is not None:
            self._sight.wrote(kind, made)
        return None

    async def _rival(self, kind: sight.Kind, snapshot: Snapshot, worker: str) -> problems.Problem | None:
        """A worker of this name and of another kind: the API server would take both, the registry one."""
        deployment = snapshot.deployment
        for other in sight.WORKERS:
            found = None if other == kind else await self._sight.named(other, deployment.metadata.namespace, worker)
            if found is not None and not _ours(found, deployment):
                return _taken(other, found, deployment)
        return None

    def _template(self, snapshot: Snapshot, revision: str) -> modeldeployment.ModelDeployment:
        """The deployment as a revision has it. Raises `UnsupportedError` where it is not kept any more."""
        if revision in ("", snapshot.newest):
            return snapshot.deployment
        kept = revisions.by_name(snapshot.seen.of(sight.REVISION)).get(revision)
        if kept is None:
            raise pods.UnsupportedError(f"revision {revision} is not kept any more -> change the specification")
        try:
            return revisions.applied(snapshot.deployment, kept["data"])
        except pydantic.ValidationError as exc:
            raise pods.UnsupportedError(f"revision {revision} is not understood: {exc.error_count()} fields") from exc

    async def _profile(self, name: str) -> acceleratorprofile.AcceleratorProfile | None:
        if not name:
            return None
        found = await self._sight.profile(name)
        if found is None:
            raise pods.UnsupportedError(f"AcceleratorProfile {name} is not there -> apply one of this name")
        try:
            return acceleratorprofile.AcceleratorProfile.read(found)
        except pydantic.ValidationError as exc:
            said = invalid.in_words(exc, "object")
            raise pods.UnsupportedError(f"AcceleratorProfile {name}: {said} -> correct it") from exc

    async def _drain(self, snapshot: Snapshot, worker: str, now_s: float) -> None:
        """First on the Pod, so that a drain whose second half was lost is told again."""
        meta = snapshot.worker(worker)["metadata"]
        namespace = meta["namespace"]
        if pods.DRAIN_ANNOTATION not in meta.get("annotations", {}):
            change = {
                "metadata": {
                    "resourceVersion": meta["resourceVersion"],
                    "annotations": {pods.DRAIN_ANNOTATION: pods.timestamp(now_s)},
                }
            }
            kind = snapshot.kind(worker)
            self._sight.wrote(kind, await self._kube.merge(kind.path(namespace, worker), change))
        await self._fleets.registry(namespace).set_state(worker, None, types.WorkerState.DRAINING)

    async def _say(
        self, snapshot: Snapshot, problem: problems.Problem | None, kept: keeping.Kept, now_s: float
    ) -> None:
        """Writes the status where it differs."""
        before = snapshot.deployment
        report = status.Report(
            snapshot.plan.held,
            snapshot.decision,
            snapshot.placements,
            problem,
            kept.problems,
            routes.judge(before, kept.route) if kept.route is not None else None,
            images.older(before, snapshot.seen, snapshot.observed.workers, self._host),
        )
        wanted = status.of_deployment(before, snapshot.observed, report, now_s)
        if wanted == before.status:
            return
        meta = before.metadata
        document = {
            "apiVersion": base.API_VERSION,
            "kind": "ModelDeployment",
            "metadata": {"name": meta.name, "namespace": meta.namespace},
            "status": wanted.model_dump(by_alias=True, exclude_none=True, mode="json"),
        }
        written = await self._kube.apply(f"{sight.DEPLOYMENT.path(meta.namespace, meta.name)}/status", document)
        self._sight.wrote(sight.DEPLOYMENT, written)
        for become in self._conditions.changed(before, wanted, now_s):
            await self._tell(become)

    async def _say_invalid(self, document: Object, message: str) -> None:
        """Of an object that an older definition took; its workers stay as they are."""
        kind = modeldeployment.ModelDeployment
        written = await refused.say(self._kube, self._clock, kind, document, message)
        if written is None:
            return
        self._sight.wrote(sight.DEPLOYMENT, written)
        meta = base.ObjectMeta.model_validate(document["metadata"])
        await self._tell(events.event(meta, "Warning", refused.REASON, "Observe", message, self._clock.now_s()))

    async def _tell(self, event: Object) -> None:
        """Events are for people: one that is lost costs nothing else."""
        namespace = event["metadata"]["namespace"]
        try:
            await self._kube.create(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", event)
        except errors.FencedError:
            raise
        except errors.PenstockError as exc:
            self._log.warning("event_lost", reason=event["reason"], because=str(exc))


def _placements(
    deployment: modeldeployment.ModelDeployment, observed: workers.Observed, now_s: float
) -> dict[str, accelerators.Placement]:
    """The hardware of each role's new workers."""
    before = {each.name: each for each in deployment.status.roles}
    found = {}
    for role in deployment.spec.roles:
        choices = [
            accelerators.Choice(each.profile, values.duration_s(each.fallback_after))
            for each in role.accelerators or deployment.spec.accelerators
        ]
        said = before.get(role.name)
        since_s = pods.unix_s(said.accelerator_since) if said and said.accelerator_since else now_s
        members = [worker for worker in observed.workers if worker.role == role.name]
        found[role.name] = accelerators.choose(choices, said.accelerator if said else "", since_s, members, now_s)
    return found


def _outcome(snapshot: Snapshot) -> Outcome:
    """Whether nothing is left to do, and the next deadline."""
    seen, plan = snapshot.observed.workers, snapshot.plan
    wanted = sum(pool.wanted for pool in workers.Desired.of(snapshot.deployment).pools)
    ready = len(seen) == wanted and all(worker.ready for worker in seen)
    settled = not plan.commands and not plan.held and ready and snapshot.decision.phase is rollout.Phase.COMPLETE
    deadlines = [plan.again_s, snapshot.decision.again_s, *(each.again_s for each in snapshot.placements.values())]
    again_s = min((each for each in deadlines if each is not None), default=None)
    if settled:
        return Outcome(True, again_s)
    return Outcome(False, UNSETTLED_S if again_s is None else min(UNSETTLED_S, max(0.2, again_s)))


def _taken(kind: sight.Kind, found: Object, deployment: modeldeployment.ModelDeployment) -> problems.Problem:
    """What is the matter with a name that somebody else's worker has."""
    meta = found["metadata"]
    owners = {(each["kind"], each["name"]) for each in meta.get("ownerReferences", ())}
    if ("ModelDeployment", deployment.metadata.name) in owners:
        return problems.former(kind.name, meta["name"])
    return problems.name_taken(kind.name, meta["name"])


def _ours(found: Object, deployment: modeldeployment.ModelDeployment) -> bool:
    return any(each["uid"] == deployment.metadata.uid for each in found["metadata"].get("ownerReferences", ()))

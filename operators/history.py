"""Roll-outs as a person sees and steers them: where one is, which revisions are kept, back to one of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pydantic

from operators import access, kube, pods, revisions, sight
from operators.policy import rollout, status
from penstock.api.crds import modeldeployment
from penstock.runtime import clock as clocks
from penstock.runtime import errors

MANAGER = "penstock-cli"
_FAILED = (rollout.Phase.ROLLED_BACK, rollout.Phase.STOPPED)


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a roll-out is, in lines, and the exit status that says so."""

    text: str
    code: int


@dataclasses.dataclass(frozen=True)
class Kept:
    """One revision that is kept."""

    number: int
    revision: str
    made: str
    image: str
    marks: tuple[str, ...]


class History:
    """The deployments of one namespace."""

    def __init__(self, client: kube.KubeClient, namespace: str, clock: clocks.Clock) -> None:
        self._kube, self._namespace, self._clock = client, namespace, clock

    @classmethod
    def of(cls, found: access.Access, namespace: str, clock: clocks.Clock) -> History:
        """With a client of its own."""
        client = kube.KubeClient(found.server, found.ssl_context(), found.token, manager=MANAGER)
        return cls(client, namespace, clock)

    async def close(self) -> None:
        """Closes the client."""
        await self._kube.close()

    async def status(self, name: str) -> Progress:
        """Raises `TerminalError` where there is no such deployment, `RetryableError` where the cluster is not reached."""
        return progress(modeldeployment.ModelDeployment.read(await self._document(name)))

    async def revisions(self, name: str) -> list[Kept]:
        """The oldest first."""
        deployment = modeldeployment.ModelDeployment.read(await self._document(name))
        newest = revisions.name_of(revisions.template(deployment))
        said = deployment.status
        found = []
        for each in await self._kept(deployment):
            revision = each["metadata"]["labels"][pods.REVISION_LABEL]
            marks = {
                "specified": revision == newest,
                "serving": revision == said.revision,
                "rejected": revision == said.rollout.rejected,
            }
            made = each["metadata"].get("creationTimestamp", "")
            image = each["data"].get("engine", {}).get("image", "")
            held = tuple(mark for mark, holds in marks.items() if holds)
            found.append(Kept(int(each["revision"]), revision, made, image, held))
        return found

    async def undo(self, name: str, to: str = "") -> str:
        """Writes a revision into the specification, the one before by default; which. Raises `TerminalError`."""
        document = await self._document(name)
        deployment = modeldeployment.ModelDeployment.read(document)
        chosen = choose(deployment, await self._kept(deployment), to)
        try:
            changed = revisions.applied(deployment, chosen["data"])
        except pydantic.ValidationError as exc:
            raise errors.TerminalError(f"{name}: the revision is not understood by this version") from exc
        document["spec"] = changed.spec.model_dump(by_alias=True, exclude_none=True, mode="json")
        annotations = document["metadata"].setdefault("annotations", {})
        annotations.pop(revisions.RESTART_ANNOTATION, None)
        if "restartedAt" in chosen["data"]:
            annotations[revisions.RESTART_ANNOTATION] = chosen["data"]["restartedAt"]
        await self._kube.replace(sight.DEPLOYMENT.path(self._namespace, name), document)
        return str(chosen["metadata"]["labels"][pods.REVISION_LABEL])

    async def restart(self, name: str) -> None:
        """Makes a new revision of the same specification."""
        await self._document(name)
        stamp = status.timestamp(self._clock.now_s())
        change = {"metadata": {"annotations": {revisions.RESTART_ANNOTATION: stamp}}}
        await self._kube.merge(sight.DEPLOYMENT.path(self._namespace, name), change)

    async def _document(self, name: str) -> dict[str, Any]:
        found = await self._kube.get(sight.DEPLOYMENT.path(self._namespace, name))
        if found is None:
            raise errors.TerminalError(f"there is no ModelDeployment {name} in namespace {self._namespace}")
        return found

    async def _kept(self, deployment: modeldeployment.ModelDeployment) -> list[dict[str, Any]]:
        labels = f"{pods.DEPLOYMENT_LABEL}={deployment.metadata.name}"
        found, _ = await self._kube.list(sight.REVISION.path(self._namespace), labels)
        uid = deployment.metadata.uid
        own = [each for each in found if any(ref["uid"] == uid for ref in each["metadata"].get("ownerReferences", ()))]
        return sorted(own, key=lambda each: int(each["revision"]))


def progress(deployment: modeldeployment.ModelDeployment) -> Progress:
    """What the status says of the roll-out."""
    said = deployment.status
    if said.observed_generation < deployment.metadata.generation or not said.rollout.phase:
        return Progress("the operator has not looked at the last change yet", 4)
    message = next((each.message for each in said.conditions if each.type == status.PROGRESSING), "")
    phase = rollout.Phase(said.rollout.phase)
    lines = [f"{phase.value}: {message}"]
    for role in said.roles:
        lines.append(
            f"  {role.name}: {role.updated} of {role.wanted} have revision {said.update_revision}, {role.ready} ready"
        )
    if phase in _FAILED:
        return Progress("\n".join(lines), 1)
    ready = all(role.ready >= role.wanted for role in said.roles)
    return Progress("\n".join(lines), 0 if phase is rollout.Phase.COMPLETE and ready else 4)


def choose(deployment: modeldeployment.ModelDeployment, kept: list[dict[str, Any]], to: str) -> dict[str, Any]:
    """The kept revision that is meant. Raises `TerminalError` that says what there is."""
    newest = revisions.name_of(revisions.template(deployment))
    named = revisions.by_name(kept)
    if to:
        found = named.get(to) or next((each for each in kept if str(each["revision"]) == to), None)
        if found is None:
            known = ", ".join(f"{each['revision']} ({name})" for name, each in named.items()) or "none"
            raise errors.TerminalError(f"revision {to} is not kept; there are: {known}")
        return found
    serving = deployment.status.revision
    if serving != newest and serving in named:
        return named[serving]
    others = [each for name, each in named.items() if name not in (newest, deployment.status.rollout.rejected)]
    # Those that never served are none to go back to; an operator of an older version did not note which did.
    noted = any(revisions.has_served(each) for each in kept)
    served = [each for each in others if revisions.has_served(each)] if noted else others
    if not served:
        known = ", ".join(f"{each['revision']} ({name})" for name, each in named.items() if each in others)
        hint = f": none of {known} is known to have served; `--to` takes one all the same" if known else ""
        raise errors.TerminalError(f"there is no revision before this one{hint}")
    return served[-1]

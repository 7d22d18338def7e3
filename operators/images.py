"""Which workers run another default image than a new one would: an upgrade of the operator restarts no engine. Pure."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from operators import pods, revisions, sight
from operators.policy import workers
from penstock.api.crds import modeldeployment

Object = dict[str, Any]

# What a worker was made with. What it runs may have another name: admission may have put a mirror's before it.
ANNOTATION = "penstock.dev/images"


def recorded(worker: Object) -> Object:
    """The object of a new worker, with the images it asks for kept beside what admission may make of them."""
    meta = worker["metadata"]
    kept = {ANNOTATION: json.dumps(dict(_specified(worker)), sort_keys=True)}
    return {**worker, "metadata": {**meta, "annotations": {**meta.get("annotations", {}), **kept}}}


def older(
    deployment: modeldeployment.ModelDeployment,
    seen: sight.Seen,
    members: Iterable[workers.Worker],
    host: pods.WorkerHost,
) -> dict[str, tuple[str, str]]:
    """Workers by name, each with an image that it runs and the one that is the default now; the user's own are no defaults."""
    found = {each["metadata"]["name"]: each for kind in sight.WORKERS for each in seen.of(kind)}
    kept = revisions.by_name(seen.of(sight.REVISION))
    late = {}
    for worker in members:
        if not worker.live or worker.name not in found:
            continue
        engine = deployment.spec.engine.model_dump(by_alias=True, exclude_none=True)
        if worker.revision in kept:
            engine = kept[worker.revision]["data"].get("engine", {})
        wanted = _defaults(engine, host)
        for name, image in _images(found[worker.name]):
            if image != wanted.get(name, image):
                late[worker.name] = (image, wanted[name])
    return late


def _defaults(engine: Object, host: pods.WorkerHost) -> dict[str, str]:
    """Default image of each container that has one, for an engine as a revision keeps it."""
    found = {pods.AGENT: host.image, "download": host.image}
    if "image" not in engine:
        found |= {"worker": host.image} if engine.get("kind") == "sim" else {"engine": host.vllm_image}
    return found


def _images(worker: Object) -> Iterable[tuple[str, str]]:
    """Name of each container with the image that was asked for it, or that it has where nothing is recorded."""
    asked = _record((worker["metadata"].get("annotations") or {}).get(ANNOTATION, ""))
    return [(name, asked.get(name, image)) for name, image in _specified(worker)]


@functools.lru_cache(maxsize=1024)
def _record(text: str) -> Mapping[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        # None, or one that somebody has changed.
        return {}
    return {name: image for name, image in found.items() if isinstance(image, str)} if isinstance(found, dict) else {}


def _specified(worker: Object) -> Iterator[tuple[str, str]]:
    """Name and image of each container of a Pod, or of the head of a unit."""
    spec = worker["spec"]
    cluster = spec.get("rayClusterConfig", spec)
    if "headGroupSpec" in cluster:
        spec = cluster["headGroupSpec"]["template"]["spec"]
    for each in (*spec.get("containers", ()), *spec.get("initContainers", ())):
        yield each["name"], each.get("image", "")


def slim(spec: Object) -> Object:
    """Of a Pod's specification what is read here; the many Pods that are alike share it."""
    return _shared(*(tuple((each["name"], each.get("image", "")) for each in spec.get(part, ())) for part in _PARTS))


_PARTS = ("containers", "initContainers")


@functools.lru_cache(maxsize=4096)
def _shared(*parts: tuple[tuple[str, str], ...]) -> Object:
    return {
        part: [{"name": name, "image": image} for name, image in each] for part, each in zip(_PARTS, parts, strict=True)
    }

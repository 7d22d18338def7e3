"""Which workers run another default image than a new one would."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from operators import build, copies, images, pods, revisions, sight, units
from operators.policy import workers
from penstock.api.crds import modeldeployment

HOST = pods.WorkerHost("penstock:1", "redis", "url", "vllm:1")
HUB = {"hub": {"repo": "org/model"}}


def deployment(**spec: Any) -> modeldeployment.ModelDeployment:
    """Of one worker."""
    return modeldeployment.ModelDeployment.written(
        {
            "metadata": {"name": "m", "namespace": "models", "uid": "u"},
            "spec": {"model": {"name": "m", "source": HUB}, **spec},
        }
    )


def older(
    about: modeldeployment.ModelDeployment, host: pods.WorkerHost, kind: sight.Kind, worker: Any
) -> dict[str, Any]:
    """What is older on this host."""
    seen = sight.Seen({}, {kind.plural: [worker]})
    member = workers.Worker("m-0", "unified", workers.Phase.RUNNING, 0.0, revision="r1")
    return images.older(about, seen, [member], host)


@pytest.mark.parametrize(
    ("spec", "newer", "wants"),
    [
        ({"engine": {"kind": "sim"}}, pods.WorkerHost("penstock:2", "r", "u", "vllm:1"), "penstock:2"),
        ({"engine": {"kind": "sim"}}, pods.WorkerHost("penstock:1", "r", "u", "vllm:2"), None),
        ({}, pods.WorkerHost("penstock:1", "r", "u", "vllm:2"), "vllm:2"),
        ({}, pods.WorkerHost("penstock:2", "r", "u", "vllm:1"), "penstock:2"),
        ({"engine": {"image": "mine"}}, pods.WorkerHost("penstock:1", "r", "u", "vllm:2"), None),
        ({"parallelism": {"tensor": 2, "nodes": 2}}, pods.WorkerHost("penstock:1", "r", "u", "vllm:2"), "vllm:2"),
        (
            {"engine": {"kind": "sim", "image": "ray"}, "hosting": "RayServe"},
            pods.WorkerHost("penstock:2", "r", "u", "vllm:2"),
            None,
        ),
    ],
)
def test_defaults_that_have_moved_on(spec: dict[str, Any], newer: pods.WorkerHost, wants: str | None) -> None:
    """Pods, units and what Serve hosts: each container that has no image of the user's is compared with the default of now."""
    about = deployment(**spec)
    kind, worker = units.document(about, workers.Create("m-0", "unified", "r1"), HOST, None)
    assert older(about, HOST, kind, worker) == {}
    found = older(about, newer, kind, worker)
    assert {default for _, default in found.values()} == ({wants} if wants else set())


def test_a_worker_is_judged_by_its_own_revision() -> None:
    """One that was made with an image of the user's is not older because the specification has none any more."""
    before, now = deployment(engine={"image": "mine"}), deployment()
    create = workers.Create("m-0", "unified", revisions.name_of(revisions.template(before)))
    seen = sight.Seen(
        {},
        {
            sight.POD.plural: [build.pod(before, create, HOST)],
            sight.REVISION.plural: [revisions.document(before, revisions.template(before), 1)],
        },
    )
    member = workers.Worker("m-0", "unified", workers.Phase.RUNNING, 0.0, revision=create.revision)
    assert images.older(now, seen, [member], HOST) == {}
    assert images.older(now, dataclasses.replace(seen, owned={**seen.owned, sight.REVISION.plural: []}), [member], HOST)


@pytest.mark.parametrize("spec", [{"engine": {"kind": "sim"}}, {}, {"parallelism": {"tensor": 2, "nodes": 2}}])
def test_images_that_admission_rewrites(spec: dict[str, Any]) -> None:
    """A worker whose images got a mirror's name is not older than what it was made with; a newer default is still told."""
    about = deployment(**spec)
    kind, worker = units.document(about, workers.Create("m-0", "unified", "r1"), HOST, None)
    mirrored = json.loads(json.dumps(worker).replace('"image": "', '"image": "mirror.local/'))
    assert mirrored["spec"] != worker["spec"]
    assert older(about, HOST, kind, mirrored) == {}
    newer = pods.WorkerHost("penstock:2", "redis", "url", "vllm:2")
    assert set(older(about, newer, kind, mirrored)) == {"m-0"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"worker": 1}'])
def test_a_record_that_is_no_record(text: str) -> None:
    """A worker whose record is missing or changed by hand is judged by what it runs."""
    about = deployment(engine={"kind": "sim"})
    pod = build.pod(about, workers.Create("m-0", "unified", "r1"), HOST)
    pod["metadata"]["annotations"] = {images.ANNOTATION: text}
    assert older(about, HOST, sight.POD, pod) == {}
    newer = pods.WorkerHost("penstock:2", "redis", "url", "vllm:1")
    assert older(about, newer, sight.POD, pod) == {"m-0": ("penstock:1", "penstock:2")}


def test_copies_keep_what_is_read_here() -> None:
    """A Pod as the operator's copies have it tells its images, and Pods that are alike share them."""
    about = deployment()
    pod = build.pod(about, workers.Create("m-0", "unified", "r1"), HOST)
    slim, other = copies.slim_pod(json.loads(json.dumps(pod))), copies.slim_pod(json.loads(json.dumps(pod)))
    assert slim["spec"]["containers"] is other["spec"]["containers"]
    newer = pods.WorkerHost("penstock:2", "r", "u", "vllm:1")
    assert set(older(about, newer, sight.POD, slim)) == {"m-0"} and older(about, HOST, sight.POD, slim) == {}

"""Namespaces that enforce Pod Security `restricted` take the Pods of workers, or the deployment says why not."""

from __future__ import annotations

from typing import Any

import pytest

from operators import sight
from operators.policy import workers
from operators.units import document
from penstock.api.crds import modeldeployment
from penstock.runtime import errors
from tests.support.stage import Stage

HUB = {"hub": {"repo": "org/model", "revision": "abc"}}
STORE = {"objectStore": {"uri": "s3://bucket/model", "credentials": {"name": "keys"}}}
VLLM = {"kind": "vllm"}
SGLANG = {"kind": "sglang", "image": "sglang:test"}


@pytest.fixture
def restricted(stage: Stage) -> Stage:
    """The stage, in a namespace that enforces the standard."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    said = stage.server.merge(f"/api/v1/namespaces/{stage.namespace}", {"metadata": {"labels": labels}})
    assert said.is_success, said.text
    return stage


def model(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A model with files."""
    return {"name": "tiny", "source": source, **more}


@pytest.mark.parametrize(
    "spec",
    [
        {"engine": {"kind": "sim"}},
        {"engine": VLLM, "model": model(HUB)},
        {"engine": VLLM, "model": model(HUB, cache={"claimName": "models"})},
        {"engine": VLLM | {"lora": {}}, "model": model(STORE)},
        {"engine": SGLANG, "model": model({"volume": {"claimName": "weights", "path": "/llama"}})},
        {"engine": VLLM | {"runAsUser": 1000}, "model": model(HUB)},
    ],
    ids=["sim", "vllm-download", "vllm-claim", "vllm-store", "sglang-volume", "another-user"],
)
async def test_workers_are_taken_by_restricted_namespaces(restricted: Stage, spec: dict[str, Any]) -> None:
    """Engine, agent and download of each kind of worker are made where the standard is enforced."""
    restricted.host = restricted.host.__class__("penstock:test", "redis", "url", "vllm:test", agent_tls_secret="agents")
    restricted.reconciler = restricted.another()
    restricted.create(1, **spec)
    await restricted.once()
    [pod] = restricted.pods().values()
    user = spec["engine"].get("runAsUser", 65_532)
    engine = next(each for each in pod["spec"]["containers"] if each["name"] in ("engine", "worker"))
    assert engine["securityContext"]["runAsUser"] == user
    # Our own programs write nothing into their root; an engine's image is somebody else's.
    ours = [each for each in pod["spec"]["containers"] if each["name"] != "engine"]
    ours += pod["spec"].get("initContainers", ())
    assert ours and all(each["securityContext"]["readOnlyRootFilesystem"] for each in ours)


@pytest.mark.parametrize(
    ("engine", "extra"),
    [
        (VLLM, {"parallelism": {"tensor": 2, "nodes": 2}}),
        ({"kind": "sim", "image": "ray:test"}, {"hosting": "RayServe"}),
        ({"kind": "vllm", "image": "ray:test"}, {"hosting": "RayServe"}),
    ],
    ids=["cluster", "service", "service of a program"],
)
async def test_pods_of_ray_as_we_make_them_are_taken(restricted: Stage, engine: Any, extra: dict[str, Any]) -> None:
    """Head and ranks, as their templates are, are Pods that the namespace takes."""
    restricted.create(1, engine=engine, model=model(HUB), **extra)
    deployment = modeldeployment.ModelDeployment.read(restricted.deployment())
    _, unit = document(deployment, workers.Create("m-0", "unified", "r1"), restricted.host, None)
    cluster = unit["spec"].get("rayClusterConfig", unit["spec"])
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", ())]
    for number, group in enumerate(groups):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"p-{number}"},
            "spec": group["template"]["spec"],
        }
        made = restricted.server.create(pod, restricted.namespace)
        assert made.is_success, made.text


@pytest.mark.parametrize(
    ("spec", "step"),
    [
        ({"engine": VLLM, "model": model({"path": "/data"})}, "model.source.volume or model.cache.claimName"),
        ({"engine": VLLM, "model": model(HUB, cache={"nodePath": "/var/models"})}, "model.cache.claimName in place"),
        ({"engine": VLLM | {"runAsUser": 0}, "model": model(HUB)}, "engine.runAsUser above 0"),
    ],
    ids=["path", "node-cache", "root"],
)
async def test_what_the_standard_forbids_is_named(restricted: Stage, spec: dict[str, Any], step: str) -> None:
    """Folders of the node and root are refused; the condition says so, with what to write instead, and what to label."""
    restricted.create(1, **spec)
    with pytest.raises(errors.TerminalError):
        await restricted.once()
    ready = restricted.ready()
    assert (ready["status"], ready["reason"]) == ("False", "PodSecurity")
    assert "-> " in ready["message"] and step in ready["message"], ready["message"]
    assert "pod-security.kubernetes.io/enforce=" in ready["message"]
    assert not restricted.pods()


async def test_root_is_the_users_word(stage: Stage) -> None:
    """Elsewhere an engine that is to run as root does, with its image's home and without capabilities; the agent does not."""
    stage.create(1, engine=VLLM | {"runAsUser": 0}, model=model(HUB))
    await stage.once()
    pod = stage.server.get(sight.POD.path(stage.namespace, "m-0")).json()
    engine, agent = pod["spec"]["containers"]
    assert (engine["securityContext"]["runAsUser"], engine["securityContext"]["runAsNonRoot"]) == (0, False)
    assert engine["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not {"HOME", "USER"} & {each["name"] for each in engine["env"]}
    assert agent["securityContext"]["runAsUser"] == 65_532 and agent["securityContext"]["runAsNonRoot"]

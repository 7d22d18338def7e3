"""ModelDeployments that are more than one simulated Pod: a real vLLM, and workers that span nodes through KubeRay."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import openai
import pytest

from tests.cluster import flags, tools
from tests.cluster.node import image, layers, session
from tests.e2e.cluster import installed
from tests.support import model_servers
from tests.support.load import Load
from workers.vllm import install, tiny_model

SPACE = "engines"
VLLM_ENV = {
    "PYTHONPATH": "/models/local/env",
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
}
# float32: bfloat16 needs instructions that many CPUs lack.
VLLM_ARGS = ["--dtype=float32", "--enforce-eager", "--max-model-len=2048", "--block-size=32"]
VLLM_ARGS.append("--kv-cache-memory-bytes=67108864")
# In one process: the engine and a worker process would wait for each other by spinning on a core each.
VLLM_ARGS.append("--distributed-executor-backend=vllm.v1.executor.uniproc_executor.UniProcExecutor")


@pytest.fixture(scope="module")
def release(cluster: session.RealCluster, kube: tools.Tools) -> Iterator[tools.Tools]:
    """kubectl in the namespace of a release."""
    here = kube.within(SPACE)
    with cluster.entered():
        installed.install(here, cluster.folder)
        yield here
        here.kubectl("delete", "md", "--all", "--timeout=120s", timeout_s=150)
        here.helm("uninstall", "penstock", "--wait")


def deployment(name: str, **spec: Any) -> dict[str, Any]:
    """A deployment of vLLM."""
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"replicas": 1, "drain": {"timeout": "20s"}} | spec,
    }


def answer(release: tools.Tools, model: str) -> str:
    """What an OpenAI client is told through the gateways' Service."""
    client = openai.OpenAI(base_url=f"{installed.gateway_url(release)}/v1", api_key="none")
    made = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=8, temperature=0
    )
    assert made.usage is not None
    assert made.usage.completion_tokens > 0
    return made.choices[0].message.content or ""


def begun(release: tools.Tools, model: str, tokens: int) -> Iterator[Any]:
    """What is left of a stream of so many tokens whose first chunk is here."""
    client = openai.OpenAI(base_url=f"{installed.gateway_url(release)}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": "Hello"}]
    chunks = iter(
        client.chat.completions.create(
            model=model, messages=messages, max_tokens=tokens, stream=True, extra_body={"ignore_eos": True}
        )
    )
    next(chunks)
    return chunks


def test_a_real_vllm_answers(release: tools.Tools, cluster: session.RealCluster) -> None:
    """A worker of one vLLM on CPU, with the agent beside it, answers with what the model says: the same each time."""
    if not install.is_installed():
        pytest.skip("there is no vLLM here: `make vllm` installs it (6.5 GB)")
    files = cluster.folder / "real"
    tiny_model.write(files)
    image.vllm_files(install.DEFAULT_VENV, files)
    cluster.load(image.vllm_image(install.DEFAULT_VENV, cluster.folder / "vllm.tar"))
    engine = {
        "kind": "vllm",
        "image": image.VLLM,
        "args": VLLM_ARGS,
        "env": [{"name": name, "value": value} for name, value in VLLM_ENV.items()],
        "resources": {"cpu": "500m", "memory": "5Gi"},
    }
    source = {"name": "real", "source": {"path": str(files)}}
    release.apply(deployment("real", model=source, engine=engine, drain={"timeout": "100s"}))
    release.wait("--for=condition=Ready", "md/real", timeout_s=400)
    assert answer(release, "real") == answer(release, "real")
    (pod,) = installed.pods(release, "penstock.dev/deployment=real")
    assert [each["name"] for each in pod["spec"]["containers"]] == ["engine", "agent"]
    assert "vLLM" in release.kubectl("logs", pod["metadata"]["name"], "-c", "engine")
    assert pod["spec"]["containers"][0]["securityContext"]["runAsUser"] > 0
    chunks = begun(release, "real", tokens=150)
    release.kubectl("delete", "md/real", "--wait=false")
    assert [each.choices[0].finish_reason for each in chunks if each.choices][-1] == "length"
    tools.until("no Pod", lambda: release.get("pods", "-l", "penstock.dev/deployment=real") == [], 120)
    hooks = [each for each in release.get("events") if each["reason"] == "FailedPreStopHook"]
    assert hooks == [], "the engine's container waited for the agent"


def test_a_model_is_fetched_once_for_the_workers_of_a_node(
    release: tools.Tools, cluster: session.RealCluster, kuberay_operator: None
) -> None:
    """From a hub into a folder of the node: the second worker, and those of another day, find it there."""
    # The nodes are one machine here, so both have the same folder.
    cache = cluster.folder / "model-cache"
    cache.mkdir()
    os.chown(cache, layers.USER, layers.USER)
    with model_servers.running(flags.NODE_GATEWAY) as hub:
        wanted = {"repo": "org/model", "revision": "abc", "endpoint": hub.url}
        model = {"name": "kept", "source": {"hub": wanted}, "cache": {"nodePath": str(cache), "sizeLimit": "1Gi"}}
        engine = {"kind": "vllm", "image": image.RAY, "resources": {"cpu": "200m", "memory": "1Gi"}}
        whole = deployment("kept", model=model, engine=engine, replicas=2)
        release.apply(whole)
        release.wait("--for=condition=Ready", "md/kept", timeout_s=180)
        files = [f"/org/model/resolve/abc/{name}" for name in model_servers.FILES]
        assert sorted(path for path in hub.asked if "/resolve/" in path) == sorted(files)
        answer(release, "kept")
        asked = len(hub.asked)
        release.kubectl("delete", "md/kept", "--timeout=120s", timeout_s=150)
        release.apply(whole)
        release.wait("--for=condition=Ready", "md/kept", timeout_s=180)
        assert len(hub.asked) == asked
    (folder,) = [each for each in cache.iterdir() if each.is_dir()]
    found = {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*.*") if each.is_file()}
    assert {name: found[name] for name in model_servers.FILES} == model_servers.FILES
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o002) == (layers.USER, 0)
    release.kubectl("delete", "md/kept", "--timeout=120s", timeout_s=150)


def test_a_worker_of_two_nodes_lives_and_ends_as_one(release: tools.Tools, kuberay_operator: None) -> None:
    """Its ranks are real Ray Pods of one RayCluster (the engine on them is simulated); a lost rank rebuilds all of it."""
    release.apply(wide())
    release.wait("--for=condition=Ready", "md/wide", timeout_s=240)
    answer(release, "wide")
    ranks = {each["metadata"]["uid"] for each in installed.pods(release, "penstock.dev/deployment=wide")}
    assert len(ranks) == 2
    (lost,) = installed.pods(release, "penstock.dev/deployment=wide,ray.io/node-type=worker")
    release.kubectl("delete", "pod", lost["metadata"]["name"], "--grace-period=1")
    tools.until("all ranks are others", lambda: ready_ranks(release).isdisjoint(ranks) and ready_ranks(release), 240)
    release.wait("--for=condition=Ready", "md/wide", timeout_s=240)
    answer(release, "wide")


def test_a_rank_whose_node_is_drained_cuts_no_stream(release: tools.Tools, kuberay_operator: None) -> None:
    """The rank stays until the streams of its unit have ended; then the unit is built anew."""
    release.apply(wide())
    release.wait("--for=condition=Ready", "md/wide", timeout_s=240)
    before = units(release)
    (rank,) = installed.pods(release, "penstock.dev/deployment=wide,ray.io/node-type=worker")
    node = rank["spec"]["nodeName"]
    chunks = begun(release, "wide", tokens=8000)
    with futures.ThreadPoolExecutor() as pool:
        read = pool.submit(lambda: [each.choices[0].finish_reason for each in chunks if each.choices])
        ranks = "--pod-selector=penstock.dev/deployment=wide,ray.io/node-type=worker"
        try:
            release.kubectl(
                "drain", node, ranks, "--ignore-daemonsets", "--delete-emptydir-data", "--force", timeout_s=120
            )
            assert read.done(), "the rank went before the stream had ended"
        finally:
            release.kubectl("uncordon", node)
        assert read.result()[-1] == "length"
    tools.until("another unit", lambda: not set(before) & set(units(release)) and settled(release, 1), 240)
    hooks = [each for each in release.get("events") if each["reason"] == "FailedPreStopHook"]
    assert [each for each in hooks if each["involvedObject"]["uid"] == rank["metadata"]["uid"]] == []
    answer(release, "wide")


def test_a_worker_of_two_nodes_is_replaced_without_a_failed_request(
    release: tools.Tools, kuberay_operator: None, tmp_path: pathlib.Path
) -> None:
    """Under load: a roll-out, another unit, one that is drained over gRPC and replaced, and one less; deletion takes all ranks."""
    release.apply(wide())
    release.wait("--for=condition=Ready", "md/wide", timeout_s=240)
    (first,) = units(release)
    env = [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}, {"name": "CHANGED", "value": "yes"}]
    with Load(installed.gateway_url(release), "wide", clients=2) as load:
        release.kubectl("patch", "md/wide", "--type=merge", "-p", json.dumps({"spec": {"engine": {"env": env}}}))
        tools.until("another unit in its place", lambda: first not in units(release) and settled(release, 1), 240)
        release.kubectl("scale", "md/wide", "--replicas=2")
        tools.until("two units", lambda: settled(release, 2), 180)
        gone = drain_by_hand(release, tmp_path)
        tools.until("another unit for it", lambda: gone not in units(release) and settled(release, 2), 180)
        release.kubectl("scale", "md/wide", "--replicas=1")
        tools.until("one unit", lambda: settled(release, 1), 120)
    assert load.problems == []
    assert len(load.outcomes) > 50
    release.kubectl("delete", "md/wide", "--timeout=120s", timeout_s=150)
    tools.until("no ranks", lambda: release.get("pods", "-l", "penstock.dev/deployment=wide") == [], 120)


def wide() -> dict[str, Any]:
    """A worker of two nodes."""
    engine = {"kind": "vllm", "image": image.RAY, "resources": {"cpu": "200m", "memory": "2Gi"}}
    return deployment(
        "wide",
        # The image's folder: a simulated engine reads nothing.
        model={"name": "wide", "source": {"path": "/usr"}},
        engine=engine | {"env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}]},
        parallelism={"tensor": 2, "nodes": 2},
        drain={"timeout": "60s"},
    )


def units(release: tools.Tools) -> list[str]:
    """Uids of the RayClusters, those on their way out included."""
    return [each["metadata"]["uid"] for each in release.get("rayclusters")]


def settled(release: tools.Tools, count: int) -> bool:
    """Whether so many units serve, all of the newest revision, and no other is there."""
    status = release.get("md", "wide")["status"]
    same = status["revision"] == status["updateRevision"] and status["workers"] == f"{count}/{count}"
    return same and len(units(release)) == count


def drain_by_hand(release: tools.Tools, folder: pathlib.Path) -> str:
    """`penstock drain --agent` of one unit; its uid."""
    head = installed.pods(release, "penstock.dev/deployment=wide,ray.io/node-type=head")[0]
    unit = head["metadata"]["labels"]["penstock.dev/worker"]
    installed.drain_by_hand(release, folder, unit, head)
    uid: str = release.get("raycluster", unit)["metadata"]["uid"]
    return uid


def ready_ranks(release: tools.Tools) -> set[str]:
    """Of the unit's Pods, where all of them are ready."""
    found = installed.pods(release, "penstock.dev/deployment=wide")
    whole = len(found) == 2 and all(installed.ready(each) for each in found)
    return {each["metadata"]["uid"] for each in found} if whole else set()

"""The Pods of real engines: two containers, the model's files, hardware, probes."""

from __future__ import annotations

import dataclasses
import http.server
import json
import subprocess
import sys
import threading
from typing import Any

import pytest

from operators import build, pods
from operators.policy import workers
from penstock.api.crds import acceleratorprofile, modeldeployment
from workers import download
from workers.hosting import engines
from workers.hosting import spec as hosting

HOST = pods.WorkerHost("penstock:test", "redis", "url", "vllm:test")
CREATE = workers.Create("m-0", "unified", "r1", "h100")
HUB = {"hub": {"repo": "org/model", "revision": "abc", "token": {"name": "hub", "key": "token"}}}


def deployment(**spec: Any) -> modeldeployment.ModelDeployment:
    """A vLLM deployment on H100."""
    return modeldeployment.ModelDeployment.written(
        {
            "metadata": {"name": "m", "namespace": "models", "uid": "u"},
            "spec": {
                "model": {"name": "org/model", "source": HUB, **spec.pop("model", {})},
                "accelerators": [{"profile": "h100", "args": ["--max-num-seqs=64"]}],
                **spec,
            },
        }
    )


def profile(per_node: int = 8) -> acceleratorprofile.AcceleratorProfile:
    """H100 nodes."""
    spec = {"resourceName": "nvidia.com/gpu", "memory": "80Gi", "perNode": per_node, "nodeSelector": {"gpu": "h100"}}
    return acceleratorprofile.AcceleratorProfile.written({"metadata": {"name": "h100"}, "spec": spec})


def built(**spec: Any) -> dict[str, Any]:
    """The Pod's specification."""
    found: dict[str, Any] = build.pod(deployment(**spec), CREATE, HOST, profile())["spec"]
    return found


def engine(spec: dict[str, Any]) -> dict[str, Any]:
    """The engine's container."""
    return next(each for each in spec["containers"] if each["name"] == "engine")


def test_the_engine_has_its_flags_and_the_users_last() -> None:
    """What Penstock sets comes first; of the user's the role's flags win over the hardware's, and those over the engine's."""
    roles = [{"name": "unified", "args": ["--max-num-seqs=8"]}]
    found = engine(
        built(
            engine={"args": ["--max-num-seqs=256", "--enforce-eager"]},
            roles=roles,
            parallelism={"tensor": 2, "pipeline": 2},
        )
    )
    command = found["command"]
    assert command[:2] == ["vllm", "serve"] and command[2].startswith("/models/")
    assert " ".join(command).find("--tensor-parallel-size 2 --pipeline-parallel-size 2") > 0
    assert [each for each in command if each.startswith("--max-num-seqs")] == [
        "--max-num-seqs=256", "--max-num-seqs=64", "--max-num-seqs=8",
    ]  # fmt: skip
    assert found["resources"]["limits"]["nvidia.com/gpu"] == found["resources"]["requests"]["nvidia.com/gpu"] == "4"
    assert found["image"] == "vllm:test"


def test_the_agent_finds_the_engine_and_its_blocks() -> None:
    """The agent's specification is valid, asks the engine beside it, and follows the ports that the engine publishes on."""
    spec = built()
    agent = next(each for each in spec["containers"] if each["name"] == "agent")
    variables = {each["name"]: each.get("value", "") for each in agent["env"]}
    found = hosting.WorkerSpec.model_validate_json(variables["PENSTOCK_WORKER_SPEC"].replace("$(POD_IP)", "10.0.0.7"))
    assert (found.engine_url, found.revision, found.drains_by_registry) == ("http://127.0.0.1:8000", "r1", True)
    published = json.loads(engine(spec)["command"][engine(spec)["command"].index("--kv-events-config") + 1])
    assert found.kv_events is not None and found.kv_replay is not None
    assert found.kv_events.rpartition(":")[2] == published["endpoint"].rpartition(":")[2]
    assert found.kv_replay.rpartition(":")[2] == published["replay_endpoint"].rpartition(":")[2]
    assert type(engines.make(found)).__name__ == "BesideEngine"
    hook = engine(spec)["lifecycle"]["preStop"]["exec"]["command"]
    assert hook[:2] == ["python3", "-c"] and f"http://127.0.0.1:{found.agent_port}/drain" in hook[2]
    ended = subprocess.run([sys.executable, *hook[1:]], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, "an agent that has ended is waited for no more"


def test_the_hook_asks_an_agent_that_starts_again() -> None:
    """A connection that is refused, and an answer that is an error, are tried again; a drain that has ended is the end."""
    hook = engine(built())["lifecycle"]["preStop"]["exec"]["command"][2]
    asked: list[str] = []

    class Agent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(503 if len(asked) == 1 else 200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Agent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = hook.replace(str(build.AGENT_PORT), str(server.server_port))
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        server.shutdown()
    assert ended.returncode == 0 and asked == ["/drain", "/drain"]


@pytest.mark.parametrize("kv_cache", [{"events": False}, {"prefixCaching": False}])
def test_without_blocks_nobody_listens(kv_cache: dict[str, Any]) -> None:
    """No events, no address for them."""
    spec = built(kvCache=kv_cache)
    assert "--kv-events-config" not in engine(spec)["command"]
    assert '"kv_events"' not in json.dumps(spec)


def test_a_hub_is_downloaded_before_the_engine_starts() -> None:
    """The init container's wish is understood by the program that it runs, and its folder is the engine's model."""
    spec = built(model={"cache": {"nodePath": "/var/lib/models", "sizeLimit": "100Gi"}})
    [container] = spec["initContainers"]
    variables = {each["name"]: each for each in container["env"]}
    wanted = download.Wanted.model_validate_json(variables["PENSTOCK_DOWNLOAD"]["value"])
    assert (wanted.repo, wanted.revision, wanted.size_limit_bytes) == ("org/model", "abc", 100 * 2**30)
    assert str(wanted.folder) == engine(spec)["command"][2]
    assert variables["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}
    assert {"name": "models", "hostPath": {"path": "/var/lib/models", "type": "DirectoryOrCreate"}} in spec["volumes"]
    again = built(model={"source": {"hub": {"repo": "org/model", "revision": "other"}}})
    assert engine(again)["command"][2] != engine(spec)["command"][2]


@pytest.mark.parametrize(
    ("source", "path", "volume"),
    [
        ({"volume": {"claimName": "weights", "path": "/llama"}}, "/models/llama", "persistentVolumeClaim"),
        ({"path": "/data/llama"}, "/models/local", "hostPath"),
    ],
)
def test_files_that_are_there_are_mounted(source: dict[str, Any], path: str, volume: str) -> None:
    """No download; read-only."""
    spec = built(model={"source": source})
    assert "initContainers" not in spec
    assert engine(spec)["command"][2] == path
    [mount] = [each for each in engine(spec)["volumeMounts"] if each["name"] == "models"]
    assert mount["readOnly"] and volume in next(each for each in spec["volumes"] if each["name"] == "models")


def test_secrets_of_a_store_are_references() -> None:
    """Its keys become the download's variables; the engine does not see them."""
    spec = built(model={"source": {"objectStore": {"uri": "s3://bucket/llama", "credentials": {"name": "keys"}}}})
    assert spec["initContainers"][0]["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert "envFrom" not in engine(spec)


def test_lora_and_shared_memory() -> None:
    """Adapters can be loaded while it runs; /dev/shm is memory of the size that was asked for."""
    spec = built(engine={"lora": {"maxLoaded": 4, "maxRank": 32}, "resources": {"sharedMemory": "2Gi"}})
    command = " ".join(engine(spec)["command"])
    assert "--enable-lora --max-loras 4 --max-lora-rank 32" in command
    assert {"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "True"} in engine(spec)["env"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}} in spec["volumes"]


def test_the_engine_writes_to_folders_of_its_own() -> None:
    """It is no root: home and /tmp are the Pod's, it has a name, and a home that the user gives stays the user's."""
    found = engine(built())
    mounts = {each["mountPath"]: each["name"] for each in found["volumeMounts"]}
    variables = {each["name"]: each["value"] for each in found["env"]}
    assert {mounts[variables["HOME"]], mounts["/tmp"]} == {"home", "tmp"} and variables["USER"]
    assert {"name": "home", "emptyDir": {}} in built()["volumes"]
    given = engine(built(engine={"env": [{"name": "HOME", "value": "/data"}]}))
    assert [each["value"] for each in given["env"] if each["name"] == "HOME"] == ["/data"]


def test_probes_leave_time_for_the_start() -> None:
    """Readiness and liveness are asked only after the start, which has its whole time."""
    found = engine(built(engine={"startTimeout": "40m"}))
    start = found["startupProbe"]
    assert start["failureThreshold"] * start["periodSeconds"] == 2400
    assert found["livenessProbe"]["failureThreshold"] * found["livenessProbe"]["periodSeconds"] >= 60


def test_sglang_has_its_own_words() -> None:
    """The same wishes in SGLang's flags."""
    spec = built(engine={"kind": "sglang", "image": "sglang:x"}, parallelism={"tensor": 4})
    command = " ".join(engine(spec)["command"])
    assert command.startswith("python3 -m sglang.launch_server --model-path /models/")
    assert "--tp-size 4" in command and "--enable-metrics" in command and "--tensor-parallel-size" not in command


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ({"parallelism": {"tensor": 16}}, "needs 16 accelerators on a node, and h100 has 8"),
    ],
)
def test_what_cannot_be_is_said_with_the_next_step(spec: dict[str, Any], cause: str) -> None:
    """The cause and what is possible."""
    with pytest.raises(pods.UnsupportedError, match=cause):
        built(**spec)


def test_hardware_decides_where_a_pod_may_run() -> None:
    """The profile's nodes, with the deployment's own wishes."""
    assert built(placement={"nodeSelector": {"zone": "a"}})["nodeSelector"] == {"gpu": "h100", "zone": "a"}


@pytest.mark.parametrize("kind", ["vllm", "sim"])
def test_the_agents_api_is_there_with_its_certificate(kind: str) -> None:
    """Where the installation names its Secret, the agent gets port and files, and the engine beside it none; else neither."""
    host = dataclasses.replace(HOST, agent_tls_secret="agents")
    spec = build.pod(deployment(engine={"kind": kind}), CREATE, host, profile())["spec"]
    agent = spec["containers"][-1]
    variables = {each["name"]: each.get("value", "") for each in agent["env"]}
    found = hosting.WorkerSpec.model_validate_json(variables["PENSTOCK_WORKER_SPEC"].replace("$(POD_IP)", "10.0.0.7"))
    assert found.control_port == 8002
    assert {"name": "agent-tls", "mountPath": str(found.control_tls), "readOnly": True} in agent["volumeMounts"]
    assert {"name": "agent-tls", "secret": {"secretName": "agents", "optional": True}} in spec["volumes"]
    if kind == "vllm":
        assert "agent-tls" not in json.dumps(engine(spec))
    assert "control_port" not in json.dumps(built())


def test_the_agent_holds_the_files_of_a_shared_cache() -> None:
    """It sees the folder, read-only, and is told which it is; without a cache, or with files of the user's own, it sees none."""
    hub = {"hub": {"repo": "org/model", "revision": "abc"}}
    for model, held in (
        ({"name": "m", "source": hub, "cache": {"nodePath": "/var/models"}}, True),
        ({"name": "m", "source": hub}, False),
        ({"name": "m", "source": {"volume": {"claimName": "weights", "path": "/m"}}}, False),
    ):
        spec = build.pod(deployment(model=model), CREATE, HOST, profile())["spec"]
        agent = spec["containers"][-1]
        variables = {each["name"]: each.get("value", "") for each in agent["env"]}
        told = json.loads(variables["PENSTOCK_WORKER_SPEC"]).get("model_folder", "")
        mounts = [each for each in agent.get("volumeMounts", ()) if each["name"] == "models"]
        assert bool(told) == bool(mounts) == held
        assert not held or (told.startswith(mounts[0]["mountPath"]) and mounts[0]["readOnly"])


def test_the_installations_pull_secrets_are_the_workers_too() -> None:
    """Beside the deployment's own, each once: agent and download come from the installation's registry."""
    asked = deployment(placement={"imagePullSecrets": [{"name": "mine"}, {"name": "both"}]})
    host = dataclasses.replace(HOST, pull_secrets=("both", "theirs"))
    found = build.pod(asked, CREATE, host, profile())["spec"]["imagePullSecrets"]
    assert found == [{"name": "mine"}, {"name": "both"}, {"name": "theirs"}]

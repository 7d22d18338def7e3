"""How an engine is started in a container: command, arguments, environment, for vLLM and SGLang. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

from penstock.api.crds import modeldeployment, serving

ENGINE_PORT = 8000
EVENTS_PORT = 5557
REPLAY_PORT = 5558


@dataclasses.dataclass(frozen=True)
class Start:
    """What a container runs."""

    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    events: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """One role of a deployment on one kind of hardware, with the files of its model at a path."""

    deployment: modeldeployment.ModelDeployment
    role: serving.Role
    parallelism: serving.Parallelism
    accelerator_args: tuple[str, ...]
    path: str

    @property
    def args(self) -> list[str]:
        """The user's own flags: a later one wins, so the role's come last."""
        return [*self.deployment.spec.engine.args, *self.accelerator_args, *self.role.args]


def vllm(case: Case) -> Start:
    """`vllm serve`."""
    spec, parallel = case.deployment.spec, case.parallelism
    command = ["vllm", "serve", case.path, "--served-model-name", spec.model.name]
    command += ["--host", "0.0.0.0", "--port", str(ENGINE_PORT)]
    for flag, count in (
        ("--tensor-parallel-size", parallel.tensor),
        ("--pipeline-parallel-size", parallel.pipeline),
        ("--data-parallel-size", parallel.data),
    ):
        command += [flag, str(count)] if count > 1 else []
    if parallel.nodes > 1:
        command += ["--distributed-executor-backend", "ray"]
    command.append("--enable-prefix-caching" if spec.kv_cache.prefix_caching else "--no-enable-prefix-caching")
    command += ["--enable-prompt-tokens-details", "--scheduling-policy", "priority"]
    if spec.kv_cache.dtype != "auto":
        command += ["--kv-cache-dtype", spec.kv_cache.dtype]
    # Their blocks have a socket for each data-parallel rank, which the agent does not follow yet.
    events = spec.kv_cache.events and spec.kv_cache.prefix_caching and parallel.data == 1
    if events:
        command += ["--kv-events-config", _events()]
    env = [("VLLM_NO_USAGE_STATS", "1"), ("HF_HUB_OFFLINE", "1")]
    if spec.engine.lora is not None:
        lora = spec.engine.lora
        command += ["--enable-lora", "--max-loras", str(lora.max_loaded), "--max-lora-rank", str(lora.max_rank)]
        env.append(("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True"))
    return Start((*command, *case.args), tuple(env), events)


def sglang(case: Case) -> Start:
    """`sglang.launch_server`."""
    spec, parallel = case.deployment.spec, case.parallelism
    command = ["python3", "-m", "sglang.launch_server", "--model-path", case.path]
    command += ["--served-model-name", spec.model.name, "--host", "0.0.0.0", "--port", str(ENGINE_PORT)]
    for flag, count in (
        ("--tp-size", parallel.tensor),
        ("--pp-size", parallel.pipeline),
        ("--dp-size", parallel.data),
    ):
        command += [flag, str(count)] if count > 1 else []
    command.append("--enable-metrics")
    if not spec.kv_cache.prefix_caching:
        command.append("--disable-radix-cache")
    if spec.kv_cache.dtype == "fp8":
        command += ["--kv-cache-dtype", "fp8_e5m2"]
    events = spec.kv_cache.events and spec.kv_cache.prefix_caching and parallel.data == 1
    if events:
        command += ["--kv-events-config", _events()]
    if spec.engine.lora is not None:
        lora = spec.engine.lora
        command += ["--enable-lora", "--max-loras-per-batch", str(lora.max_loaded)]
        command += ["--max-lora-rank", str(lora.max_rank)]
    return Start((*command, *case.args), (("HF_HUB_OFFLINE", "1"),), events)


STARTS: dict[str, Callable[[Case], Start]] = {"vllm": vllm, "sglang": sglang}


def _events() -> str:
    """The engine publishes on these ports; `*` makes it bind, where an address would make it connect."""
    return json.dumps({
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{EVENTS_PORT}",
        "replay_endpoint": f"tcp://*:{REPLAY_PORT}",
    })  # fmt: skip

"""One vLLM server on CPU as a child process."""

import asyncio
import json
import os
import pathlib
import socket
import time

import pydantic

from workers import program
from workers.vllm import install

_POLL_S = 0.2
# Named as a class, because vLLM's CPU platform turns "uni" into "mp". There a worker process and the engine wait for each other
# by spinning, up to a second after each message: an engine takes two cores whatever its load.
_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


class VllmSettings(pydantic.BaseModel):
    """What one engine serves, and how."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    model_path: pathlib.Path = pydantic.Field(description="folder of the checkpoint")
    served_name: str = pydantic.Field(default="tiny", min_length=1, description="model name served")
    host: str = pydantic.Field(default="127.0.0.1", description="address to bind")
    port: int = pydantic.Field(default=0, ge=0, le=65535, description="HTTP port; 0 takes a free one")
    venv: pathlib.Path = pydantic.Field(default=install.DEFAULT_VENV, description="environment of workers.vllm.install")
    max_model_len: int = pydantic.Field(default=4096, ge=2, description="prompt and output tokens at most")
    block_size: int = pydantic.Field(default=32, ge=32, multiple_of=32, description="tokens per block, of 32 on CPU")
    kv_cache_bytes: int = pydantic.Field(default=64 * 2**20, ge=2**20, description="memory of the KV cache")
    max_num_seqs: int | None = pydantic.Field(default=None, ge=1, description="sequences run at once; none: vLLM's own")
    priority_scheduling: bool = pydantic.Field(default=True, description="lower `priority` first; else by arrival")
    lora: bool = pydantic.Field(default=False, description="allow LoRA adapters, loaded at run time")
    kv_events_endpoint: str | None = pydantic.Field(
        default=None,
        description="ZMQ endpoint of KV events: the engine binds ipc://PATH, and connects to tcp://HOST:PORT",
    )
    kv_replay_endpoint: str | None = pydantic.Field(default=None, description="ZMQ endpoint of replay; it is bound")
    start_timeout_s: float = pydantic.Field(default=240.0, gt=0, description="time to become healthy")
    extra_args: tuple[str, ...] = pydantic.Field(default=(), description="further arguments of `vllm serve`")


class VllmFailed(RuntimeError):
    """The engine did not start, or ended by itself; the message has its last lines."""


class VllmProcess:
    """Starts, watches and stops one `vllm serve`. It leads a process group of its own."""

    def __init__(self, settings: VllmSettings) -> None:
        self.settings = settings
        self.port = settings.port
        """The HTTP port, once started."""
        self._program = program.Program()

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://{self.settings.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id, once started."""
        return self._program.pid

    def poll(self) -> int | None:
        """Exit status, or None while it runs (or has not been started)."""
        return self._program.poll()

    async def start(self) -> int:
        """Start the engine, wait until it is healthy, return its port. Raises VllmFailed; nothing is left then."""
        found = self.settings.venv / "bin" / "vllm"
        if not found.exists():
            raise VllmFailed(f"{found} is not there; run: python -m workers.vllm.install --venv {self.settings.venv}")
        self.port = self.settings.port or _free_port(self.settings.host)
        await self._program.start([str(found.absolute()), *self._arguments()], self._environment())
        try:
            await self._wait_healthy()
        except BaseException:
            await self.stop(0.0)
            raise
        return self.port

    async def stop(self, grace_s: float = 15.0) -> None:
        """SIGTERM, then after `grace_s` SIGKILL, to the whole process group. Safe to call twice."""
        await self._program.stop(grace_s)

    async def _wait_healthy(self) -> None:
        deadline_s = time.monotonic() + self.settings.start_timeout_s
        while not await _answers(self.settings.host, self.port):
            if self.poll() is not None:
                raise VllmFailed(f"vLLM ended with {self.poll()} while starting:\n{self._program.last_lines()}")
            if time.monotonic() > deadline_s:
                raise VllmFailed(
                    f"vLLM was not healthy within {self.settings.start_timeout_s:g} s:\n{self._program.last_lines()}"
                )
            await asyncio.sleep(_POLL_S)

    def _arguments(self) -> list[str]:
        config = self.settings
        arguments = ["serve", str(config.model_path), "--served-model-name", config.served_name]
        arguments += ["--host", config.host, "--port", str(self.port)]
        arguments += ["--max-model-len", str(config.max_model_len), "--block-size", str(config.block_size)]
        arguments += ["--kv-cache-memory-bytes", str(config.kv_cache_bytes)]
        # bfloat16 needs instructions that many CPUs lack.
        arguments += ["--dtype", "float32", "--enforce-eager", "--enable-prefix-caching"]
        arguments += ["--distributed-executor-backend", _EXECUTOR]
        arguments += ["--enable-prompt-tokens-details", "--no-enable-log-requests"]
        if config.max_num_seqs is not None:
            arguments += ["--max-num-seqs", str(config.max_num_seqs)]
        if config.priority_scheduling:
            arguments += ["--scheduling-policy", "priority"]
        if config.lora:
            arguments.append("--enable-lora")
        if config.kv_events_endpoint is not None:
            events = {
                "enable_kv_cache_events": True,
                "publisher": "zmq",
                "endpoint": config.kv_events_endpoint,
            }
            if config.kv_replay_endpoint is not None:
                events["replay_endpoint"] = config.kv_replay_endpoint
            arguments += ["--kv-events-config", json.dumps(events)]
        return [*arguments, *config.extra_args]

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{(self.settings.venv / 'bin').absolute()}{os.pathsep}{os.environ.get('PATH', '')}",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_TARGET_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_HOST_IP": "127.0.0.1",
            # /reset_prefix_cache and its like are served in this mode only.
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True" if self.settings.lora else "False",
        }


async def _answers(host: str, port: int) -> bool:
    """Whether GET /health answers 200 there."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 2.0)
    except (OSError, TimeoutError):
        return False
    try:
        writer.write(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        status = await asyncio.wait_for(reader.readline(), 5.0)
        return status.split()[1:2] == [b"200"]
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port

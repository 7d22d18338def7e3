"""A vLLM engine as a child process of the worker."""

from __future__ import annotations

import asyncio
import pathlib
import tempfile
import urllib.request
from typing import Any

import pydantic

from penstock import perf
from penstock.api import invalid, types
from penstock.runtime import errors
from workers.adapters import stats, vllm
from workers.hosting import engine, spec
from workers.vllm import process, tiny_model

_ASK_TIMEOUT_S = 2.0


class VllmEngine:
    """See `engine.Engine`. Without `model_path` in the settings it serves a tiny model made on the spot."""

    def __init__(self, worker: spec.WorkerSpec) -> None:
        self._worker = worker
        self._folder = tempfile.TemporaryDirectory(prefix="vllm-", dir=worker.temp_dir)
        self._process: process.VllmProcess | None = None
        self._settings = self._parse()

    async def start(self) -> engine.EngineInfo:
        """Starts vLLM and waits until it is healthy (40 s and more on CPU)."""
        if not (self._settings.model_path / "config.json").exists():
            await asyncio.to_thread(tiny_model.write, self._settings.model_path)
        self._process = process.VllmProcess(self._settings)
        port = await self._process.start()
        reading = await self._read()
        config = self._settings
        return engine.EngineInfo(
            host=config.host,
            port=port,
            engine="vllm",
            version=await asyncio.to_thread(self._version, port),
            capacity=types.Capacity(
                kv_blocks=reading.kv_blocks if reading else None,
                block_size_tokens=(reading.block_size if reading else None) or config.block_size,
                max_num_seqs=None,
                max_num_batched_tokens=None,
                max_model_len_tokens=config.max_model_len,
            ),
            speed=self._speed(),
            kv_events=config.kv_events_endpoint,
            kv_replay=config.kv_replay_endpoint,
            pid=self._process.pid,
        )

    async def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    async def ended(self) -> bool:
        """Whether the process has."""
        return not await self.alive()

    async def load(self) -> int | None:
        """Running and waiting, by the engine's own metrics."""
        reading = await self._read()
        if reading is None or reading.running is None or reading.waiting is None:
            return None
        return reading.running + reading.waiting

    async def stop(self, drain_s: float) -> None:
        """Ends the process group; vLLM itself aborts what still runs."""
        if self._process is not None:
            await self._process.stop(max(1.0, min(drain_s, 15.0)))
        self._folder.cleanup()

    def _parse(self) -> process.VllmSettings:
        worker, folder = self._worker, pathlib.Path(self._folder.name)
        values: dict[str, Any] = {
            "model_path": folder / "model",
            "kv_events_endpoint": f"ipc://{folder}/events",
            "kv_replay_endpoint": f"ipc://{folder}/replay",
            **worker.engine.settings,
        }
        try:
            return process.VllmSettings.model_validate({**values, "served_name": worker.model, "host": worker.host})
        except pydantic.ValidationError as exc:
            allowed = ", ".join(sorted(process.VllmSettings.model_fields))
            raise errors.SettingsError(f"engine settings: {invalid.in_words(exc)}. Allowed: {allowed}") from exc

    def _speed(self) -> types.EngineSpeed:
        return perf.speed_of(perf.load_profile(self._worker.engine.profile))

    async def _read(self) -> stats.EngineStats | None:
        if self._process is None:
            return None
        url = f"{self._process.url}/metrics"
        try:
            return vllm.parse_vllm((await asyncio.to_thread(_get, url)).decode())
        except (OSError, ValueError):
            return None

    def _version(self, port: int) -> str:
        try:
            body = _get(f"http://{self._settings.host}:{port}/version").decode()
        except OSError:
            return ""
        return body.split('"')[3] if body.count('"') >= 4 else ""


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_ASK_TIMEOUT_S) as answer:
        data: bytes = answer.read()
    return data

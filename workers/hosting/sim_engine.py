"""The simulated engine, inside the worker's own process."""

from __future__ import annotations

import os
from typing import Any

import pydantic

from penstock import __version__, perf
from penstock.api import invalid, types
from penstock.runtime import errors
from workers.hosting import engine, spec
from workers.sim import server, settings


def settings_of(worker: spec.WorkerSpec) -> settings.SimSettings:
    """Settings of the engine: KV events on unless told otherwise. Raises `SettingsError` that names the key."""
    values: dict[str, Any] = {"kv_events_port": 0, "kv_replay_port": 0, **worker.engine.settings}
    if "kv_events" in values and not values.pop("kv_events"):
        values["kv_events_port"] = values["kv_replay_port"] = None
    try:
        return settings.SimSettings.model_validate(
            {**values, "model": worker.model, "host": worker.host, "profile": worker.engine.profile}
        )
    except pydantic.ValidationError as exc:
        allowed = ", ".join(sorted(settings.SimSettings.model_fields))
        raise errors.SettingsError(f"engine settings: {invalid.in_words(exc)}. Allowed: {allowed}") from exc


class SimEngine:
    """See `engine.Engine`."""

    def __init__(self, worker: spec.WorkerSpec) -> None:
        self._settings = settings_of(worker)
        self._server = server.SimServer(self._settings)
        self._running = False

    async def start(self) -> engine.EngineInfo:
        """Serves on a free port of its own (or the one in the settings)."""
        config = self._settings
        profile = perf.load_profile(config.profile)
        port = await self._server.start()
        self._running = True
        events, replay = self._server.kv_events_port, self._server.kv_replay_port
        return engine.EngineInfo(
            host=config.host,
            port=port,
            engine="sim",
            version=__version__,
            simulated=True,
            capacity=types.Capacity(
                kv_blocks=config.kv_blocks or profile.kv_blocks,
                block_size_tokens=config.block_size or profile.block_size,
                max_num_seqs=config.max_num_seqs or profile.max_num_seqs,
                max_num_batched_tokens=config.max_num_batched_tokens or profile.max_num_batched_tokens,
                max_model_len_tokens=config.max_model_len,
            ),
            speed=perf.speed_of(profile, config.slowdown / config.speed),
            kv_events=f"tcp://{config.host}:{events}" if events else None,
            kv_replay=f"tcp://{config.host}:{replay}" if replay else None,
            pid=os.getpid(),
        )

    async def alive(self) -> bool:
        """It lives as long as its process, once started."""
        return self._running

    async def ended(self) -> bool:
        """It lives as long as its process, once started."""
        return not self._running

    async def load(self) -> int | None:
        """Requests accepted and not answered."""
        return self._server.stats.in_flight

    async def stop(self, drain_s: float) -> None:
        """Lets what runs finish for `drain_s`."""
        self._running = False
        await self._server.stop(drain_s)

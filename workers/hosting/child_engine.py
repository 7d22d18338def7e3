"""An engine that the worker itself starts, by a command: what has a container of its own elsewhere, under Ray Serve."""

from __future__ import annotations

import asyncio
import os
import pathlib
import tempfile

from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, processes, tasks
from workers.hosting import beside_engine, engine, spec

# An engine that has drained ends soon after it was told to.
_STOP_S = 20.0


class ChildEngine:
    """See `engine.Engine`. It is asked as one that runs beside, and it ends with this process."""

    def __init__(self, worker: spec.WorkerSpec, clock: clocks.Clock) -> None:
        self._beside = beside_engine.BesideEngine(worker, clock)
        self._folder = tempfile.TemporaryDirectory(prefix="engine-", dir=worker.temp_dir)
        self._log_path = pathlib.Path(self._folder.name) / "engine.log"
        # The registry's password is not the engine's to know.
        env = {name: value for name, value in os.environ.items() if name != spec.REDIS_URL_ENV}
        self._child = processes.Child(worker.command[0], list(worker.command), env=env, log_path=self._log_path)
        self._log = logs.get("worker")

    async def start(self) -> engine.EngineInfo:
        """Returns when the engine has answered a first request. Raises `StartError` where it ends before."""
        self._child.spawn()
        starting = asyncio.create_task(self._beside.start(), name="engine-start")
        ended = asyncio.create_task(self._child.wait(), name="engine-ended")
        try:
            await asyncio.wait({starting, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                raise errors.StartError(
                    f"the engine ended with {self._child.exit_code} before it answered: {self._child.log_tail()}"
                )
            return await starting
        except BaseException:
            await self._child.stop(0.0)
            raise
        finally:
            await tasks.cancel([starting, ended])

    async def alive(self) -> bool:
        """False where it has ended, or did not answer several times in a row."""
        if not self._child.running:
            self._log.warning("engine_ended", status=self._child.exit_code, last=self._child.log_tail(500))
            return False
        return await self._beside.alive()

    async def load(self) -> int | None:
        """Running and waiting, by the engine's own metrics."""
        return await self._beside.load()

    async def stop(self, drain_s: float) -> None:
        """Told to end, and killed where it does not."""
        await self._child.stop(max(1.0, min(drain_s, _STOP_S)))
        self._folder.cleanup()

"""An engine that the worker itself starts, by a command: what has a container of its own elsewhere, under Ray Serve."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys

from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, tasks
from workers import program
from workers.hosting import beside_engine, engine, spec

# To end the processes that it has started itself, which hold the accelerators. What was to be answered has been by then.
_STOP_S = 20.0
# What the agent asks all the time.
_HUSHED = ("GET /health", "GET /metrics")


class ChildEngine:
    """See `engine.Engine`. It is asked as one that runs beside, and it ends with this process."""

    def __init__(self, worker: spec.WorkerSpec, clock: clocks.Clock) -> None:
        self._worker = worker
        self._beside = beside_engine.BesideEngine(worker, clock)
        self._program = program.Program(sys.stdout, _HUSHED)
        self._log = logs.get("worker")

    async def start(self) -> engine.EngineInfo:
        """Returns when the engine has answered a first request. Raises `StartError` where it ends before, or takes too long."""
        command = self._worker.command
        if shutil.which(command[0]) is None:
            raise errors.StartError(f"no such program in this image: {command[0]}")
        # Not among what the engine is given, though nothing in a container keeps it from the environment of its parent.
        env = {name: value for name, value in os.environ.items() if name != spec.REDIS_URL_ENV}
        await self._program.start(command, env)
        starting = asyncio.create_task(self._beside.start(), name="engine-start")
        ended = asyncio.create_task(self._program.wait(), name="engine-ended")
        try:
            await asyncio.wait({starting, ended}, timeout=self._worker.start_s, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                return await starting
        except BaseException:
            await self._program.stop(0.0)
            raise
        finally:
            await tasks.cancel([starting, ended])
        status = self._program.poll()
        await self._program.stop(_STOP_S)
        how = (
            f"did not answer within {self._worker.start_s:g} s"
            if status is None
            else f"ended with {status} before it answered"
        )
        raise errors.StartError(f"the engine {how}: {self._program.last_lines()}")

    async def alive(self) -> bool:
        """False where it has ended, or did not answer several times in a row."""
        if self._program.poll() is not None:
            self._log.warning("engine_ended", status=self._program.poll(), last=self._program.last_lines()[-500:])
            return False
        return await self._beside.alive()

    async def ended(self) -> bool:
        """Whether its program has, or its server refuses to be asked."""
        return self._program.poll() is not None or await self._beside.ended()

    async def load(self) -> int | None:
        """Running and waiting, by the engine's own metrics."""
        return await self._beside.load()

    async def stop(self, drain_s: float) -> None:
        """Told to end, with all that it has started, and killed where it does not."""
        await self._program.stop(_STOP_S)

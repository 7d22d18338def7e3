"""`python -m workers.hosting`: one worker as a plain process; its specification as JSON in PENSTOCK_WORKER_SPEC.

SIGTERM drains it. The exit status is 0 after a drain, 1 where the engine ended or a newer incarnation took over.
"""

from __future__ import annotations

import asyncio
import os
import sys

import pydantic

from penstock.runtime import errors, lifecycle, logs, tasks
from workers import control
from workers.hosting import hooks, spec, worker

SPEC_ENV = "PENSTOCK_WORKER_SPEC"


async def run(config: spec.WorkerSpec) -> int:
    """Runs until told to stop, or until the worker ends by itself."""
    stopped = asyncio.Event()
    lifecycle.stop_on_signals(stopped)
    this = worker.Worker(config)
    # On every address: a kubelet asks from outside of the Pod how the agent is.
    own = hooks.Hooks("" if config.agent_port is not None else "127.0.0.1", config.agent_port, this.agent.drain)
    commands = control.Server(config, this.agent)
    starting = stopping = waiting = None
    try:
        await own.start()
        this.agent.control_port = await commands.start()
        starting = asyncio.create_task(this.start(), name="worker-start")
        stopping = asyncio.create_task(stopped.wait())
        waiting = asyncio.create_task(this.agent.ended.wait())
        await asyncio.wait({starting, stopping, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            # An engine may take minutes to start: nobody waits for it to be stopped.
            return 1 if this.agent.failure is not None else 0
        await starting
        await asyncio.wait({stopping, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if this.agent.failure is not None:
            await this.stop()
            return 1
        await this.drain()
        return 0
    finally:
        await tasks.cancel([each for each in (starting, stopping, waiting) if each is not None])
        await own.stop()
        await commands.stop()


def main() -> int:
    """Entry point."""
    logs.configure(logs.LogSettings())
    try:
        config = spec.WorkerSpec.model_validate_json(os.environ.get(SPEC_ENV, "{}"))
        return asyncio.run(run(config))
    except pydantic.ValidationError as exc:
        print(f"worker: {SPEC_ENV}: {exc}", file=sys.stderr)
    except errors.PenstockError as exc:
        print(f"worker: {logs.mask_urls(str(exc))}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())

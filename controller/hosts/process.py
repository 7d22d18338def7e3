"""Workers as plain child processes of this one: no Ray, no restart of the controller without them. For tests."""

from __future__ import annotations

import os
import pathlib
import signal
import sys
from collections.abc import Sequence

from controller.policy import fleet
from penstock.runtime import processes
from workers.hosting import spec


class ProcessHost:
    """See `port.WorkerHost`. A worker whose process ended by itself is `failed` until it is stopped."""

    def __init__(self, log_dir: pathlib.Path) -> None:
        self._log_dir = log_dir
        self._children: dict[str, processes.Child] = {}
        self._stopping: set[str] = set()

    async def start(self) -> None:
        """Makes the folder for logs."""
        self._log_dir.mkdir(parents=True, exist_ok=True)

    async def stop(self) -> None:
        """Ends the workers: they are children of this process and would end with it anyhow."""
        for child in self._children.values():
            child.signal(signal.SIGTERM)
        for child in self._children.values():
            await child.stop(5.0)
        self._children.clear()

    async def start_workers(self, specs: Sequence[spec.WorkerSpec]) -> None:
        """Starts processes."""
        for item in specs:
            if item.id in self._children:
                continue
            env = {**os.environ, "PENSTOCK_WORKER_SPEC": item.model_dump_json()}
            argv = [sys.executable, "-m", "workers.hosting"]
            child = processes.Child(item.id, argv, env=env, log_path=self._log_dir / f"{item.id}.log")
            child.spawn()
            self._children[item.id] = child

    async def stop_worker(self, worker_id: str) -> None:
        """SIGTERM, on which a worker drains."""
        child = self._children.get(worker_id)
        if child is None:
            return
        if child.running:
            self._stopping.add(worker_id)
            child.signal(signal.SIGTERM)
        else:
            self._forget(worker_id)

    async def list(self) -> dict[str, fleet.Hosting]:
        """By the processes' state."""
        out: dict[str, fleet.Hosting] = {}
        for name, child in list(self._children.items()):
            if name in self._stopping:
                if child.running:
                    out[name] = fleet.Hosting.STOPPING
                else:
                    self._forget(name)
            else:
                out[name] = fleet.Hosting.RUNNING if child.running else fleet.Hosting.FAILED
        return out

    def pid(self, worker_id: str) -> int | None:
        """Process id of a worker."""
        child = self._children.get(worker_id)
        return child.pid if child else None

    def _forget(self, worker_id: str) -> None:
        self._stopping.discard(worker_id)
        self._children.pop(worker_id, None)

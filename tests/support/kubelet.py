"""What a kubelet does, for simulated workers: a Pod's container becomes a process, with the Pod's own command and variables."""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
from typing import Any

from operators import sight
from penstock.runtime import processes
from tests.cluster import api


class Kubelet:
    """Pods run at loopback addresses of their own, so that all can have the same port."""

    def __init__(self, server: api.Api, namespace: str, folder: pathlib.Path, redis_url: str, **spec: Any) -> None:
        """`spec` goes over the workers' own specification."""
        self._server, self._namespace, self._redis_url, self._changes = server, namespace, redis_url, spec
        self._log = folder / "workers.log"
        self._net = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}"
        self._next = 0
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, pod: dict[str, Any]) -> None:
        """Starts the Pod's process and says that it runs."""
        self._next += 1
        name, address = pod["metadata"]["name"], f"{self._net}.{self._next}"
        container = pod["spec"]["containers"][0]
        assert container["command"][0] == "python"
        argv = processes.die_with_parent([sys.executable, *container["command"][1:]])
        with open(self._log, "ab") as log:
            env = {**os.environ, **self._environment(container, address)}
            self._running[name] = subprocess.Popen(argv, env=env, stdout=log, stderr=log)
        # Another address than the process has: EndpointSlices take none of the loopback.
        ready = {
            "phase": "Running",
            "podIP": f"10.200.0.{self._next}",
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        path = f"{sight.POD.path(self._namespace, name)}/status"
        assert self._server.merge(path, {"status": ready}).is_success

    def _environment(self, container: dict[str, Any], address: str) -> dict[str, str]:
        found = {}
        for each in container["env"]:
            source = each.get("valueFrom", {})
            if "fieldRef" in source:
                found[each["name"]] = address
            elif "secretKeyRef" in source:
                found[each["name"]] = self._redis_url
            else:
                found[each["name"]] = each["value"].replace("$(POD_IP)", address)
        spec = json.loads(found["PENSTOCK_WORKER_SPEC"]) | self._changes
        return found | {"PENSTOCK_WORKER_SPEC": json.dumps(spec)}

    def end(self, name: str) -> int:
        """As for a deleted Pod: SIGTERM, and the process' time to drain; its exit status."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    def alive(self) -> list[str]:
        """Pods whose process runs."""
        return sorted(name for name, process in self._running.items() if process.poll() is None)

    def log(self) -> str:
        """What the workers have said last."""
        return self._log.read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """Ends all of them at once."""
        for process in self._running.values():
            process.kill()
            process.wait()

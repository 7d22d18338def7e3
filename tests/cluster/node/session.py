"""A real cluster as a test holds it: started, entered, and gone with all its traces when it is closed."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import psutil

from penstock.runtime import processes
from tests.cluster import api, binaries
from tests.cluster.node import image, layers, machine

_STOP_DEADLINE_S = 60.0


class NotStarted(Exception):
    """The cluster did not come up. The message has the reason."""


class RealCluster:
    """One or more real nodes with a control plane, in namespaces of their own."""

    def __init__(self, archives: Sequence[pathlib.Path], nodes: int = 1) -> None:
        self._archives = list(archives)
        self._count = nodes
        self._before = machine.settings()
        # Short: the path of a socket has at most 107 characters.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pstk-", dir="/var/tmp"))
        self._keeper: subprocess.Popen[str] | None = None
        self._network = ""
        self.kubeconfig = pathlib.Path()
        self.times_s: dict[str, float] = {}
        self.access: api.Access

    def start(self, programs: binaries.Binaries) -> None:
        """Returns when the nodes are ready. Raises `NotStarted`, with everything put back."""
        archive = image.pause_image(programs.path("pause"), self.folder / "pause.tar")
        keep = [sys.executable, "-m", "tests.cluster.node.keeper", str(self.folder), str(self._count)]
        command = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--mount-proc", "--kill-child"]
        with open(self.folder / "keeper.log", "ab") as log:
            self._keeper = subprocess.Popen(
                processes.die_with_parent([*command, *keep, str(archive), *map(str, self._archives)]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=layers.ROOT,
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        said = self._keeper.stdout.readline()
        ready: dict[str, Any] = (
            json.loads(said) if said else {"error": (self.folder / "keeper.log").read_text()[-3000:]}
        )
        if "error" in ready:
            self.stop()
            raise NotStarted(ready["error"])
        self.kubeconfig, self.times_s = pathlib.Path(ready["kubeconfig"]), ready["times_s"]
        self.access = api.Access.from_kubeconfig(self.kubeconfig)
        (inside,) = psutil.Process(self._keeper.pid).children()
        self._network = f"/proc/{inside.pid}/ns/net"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets, threads and processes made meanwhile are in the cluster's network."""
        with open("/proc/self/ns/net") as before:
            machine.enter_network(self._network)
            try:
                yield
            finally:
                machine.enter_network(f"/proc/self/fd/{before.fileno()}")

    def stop(self) -> None:
        """Ends everything and puts the machine back to what it was; safe to call twice."""
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            try:
                self._keeper.wait(_STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                os.kill(self._keeper.pid, signal.SIGKILL)
                self._keeper.wait()
            self._keeper = None
        machine.remove_cgroups(self.folder.name)
        machine.put_back(self._before)
        shutil.rmtree(self.folder, ignore_errors=True)

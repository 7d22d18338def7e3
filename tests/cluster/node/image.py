"""Images for containerd, without a registry and without a builder: layers and a manifest in a tar file."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import platform
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping

from tests.cluster.node import layers

PENSTOCK = "localhost/penstock:test"
RAY = "localhost/penstock-ray:test"
PAUSE = "localhost/pause:test"
VLLM = "localhost/vllm:test"
KUBERAY = "localhost/kuberay-operator:test"
METRICS_SERVER = "localhost/metrics-server:test"
_EXTRAS = ("router", "power", "workers", "download", "operators", "embedded")
_ENV = {
    "PATH": f"/{layers.HOME}/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


# Its processes import this file anew: only the first may run it.
_VLLM = """
import sys
from vllm.entrypoints.cli.main import main
if __name__ == "__main__":
    sys.exit(main())
"""
# In the image with Ray, in vLLM's place: a simulated engine that wants all of its nodes.
_PLAYED_VLLM = """#!/opt/penstock/bin/python
import argparse, os, sys
parser = argparse.ArgumentParser()
parser.add_argument("--served-model-name")
parser.add_argument("--port")
parser.add_argument("--tensor-parallel-size", type=int, default=1)
given, _ = parser.parse_known_args()
if given.tensor_parallel_size > 1:
    import ray
    ray.init(address="auto", log_to_driver=False)
    nodes = sum(node["Alive"] for node in ray.nodes())
    ray.shutdown()
    if nodes < given.tensor_parallel_size:
        sys.exit(f"{nodes} nodes of {given.tensor_parallel_size} are there")
python = "/opt/penstock/bin/python"
argv = [python, "-m", "workers.sim", "--model", given.served_model_name, "--host", "0.0.0.0", "--port", given.port]
os.execv(python, argv)
"""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A layer in a tar file."""

    path: pathlib.Path
    digest: str


def project_images(cache: pathlib.Path, say: Callable[[str], None], *, with_ray: bool = False) -> list[pathlib.Path]:
    """Archives of the project's image and, where asked, of the same with Ray."""
    began_s = time.monotonic()
    cache.mkdir(parents=True, exist_ok=True)
    parts = {"system": layers.system(), "needs": layers.distributions(_EXTRAS)}
    with tempfile.TemporaryDirectory(dir=cache) as work:
        parts["project"] = layers.project(pathlib.Path(work))
        if with_ray:
            parts["ray"] = layers.distributions((*_EXTRAS, "ray"), without=_EXTRAS)
            parts["ray"].texts[f"{layers.HOME}/bin/vllm"] = _PLAYED_VLLM
        parts["libraries"] = layers.libraries(parts.values())
        stored = {name: store(layer, cache / f"layer-{name}.tar") for name, layer in parts.items()}
    base = [stored["system"], stored["libraries"], stored["needs"]]
    archives = [cache / "penstock.tar"]
    _archive({PENSTOCK: [*base, stored["project"]]}, archives[0], _ENV, str(layers.USER))
    if with_ray:
        archives.append(cache / "penstock-ray.tar")
        _archive({RAY: [*base, stored["ray"], stored["project"]]}, archives[1], _ENV, str(layers.USER))
    sizes = ", ".join(f"{name} {each.path.stat().st_size / 1e6:.0f} MB" for name, each in stored.items())
    say(f"images of the project: {time.monotonic() - began_s:.1f} s ({sizes})")
    return archives


def vllm_image(venv: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """An archive of what vLLM needs beside its own 6 GB of packages; these come with the model's folder (`vllm_files`)."""
    parts = [layers.system(), layers.scripts({"vllm": _VLLM})]
    parts.append(layers.libraries([parts[0], layers.environment(venv)], without=venv))
    stored = [store(layer, target.with_suffix(f".layer{number}")) for number, layer in enumerate(parts)]
    _archive({VLLM: stored}, target, _ENV | {"PATH": "/usr/local/bin:/usr/bin:/bin"}, str(layers.USER))
    return target


def vllm_files(venv: pathlib.Path, folder: pathlib.Path) -> None:
    """vLLM's packages, linked into `folder`/env: copied only where the folder is on another disk."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(layers.site_of(venv), folder / "env", copy_function=link)


def program_image(name: str, program: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """An archive of an image that is one static program."""
    stored = store(layers.Layer(files={program.name: program}), target.with_suffix(".layer"))
    _archive({name: [stored]}, target, {}, str(layers.USER), entrypoint=[f"/{program.name}"])
    return target


def store(layer: layers.Layer, target: pathlib.Path) -> Stored:
    """Writes a layer. Times stay: an interpreter compares a source's with that in its compiled file."""
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        parents: set[str] = set()
        for name in sorted({*layer.folders, *layer.links, *layer.files, *layer.texts}):
            for parent in reversed(pathlib.PurePosixPath(name).parents):
                if str(parent) not in {".", *parents, *layer.folders}:
                    parents.add(str(parent))
                    tar.addfile(_info(str(parent), tarfile.DIRTYPE, 0o755))
            _add(tar, layer, name)
    return Stored(target, _digest(target))


def _add(tar: tarfile.TarFile, layer: layers.Layer, name: str) -> None:
    if name in layer.folders:
        tar.addfile(_info(name, tarfile.DIRTYPE, layer.folders[name]))
    elif name in layer.links:
        info = _info(name, tarfile.SYMTYPE, 0o777)
        info.linkname = layer.links[name]
        tar.addfile(info)
    elif name in layer.texts:
        content = layer.texts[name].encode()
        info = _info(name, tarfile.REGTYPE, 0o755 if content.startswith(b"#!") else 0o644)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    else:
        state = os.stat(layer.files[name])
        info = _info(name, tarfile.REGTYPE, 0o755 if state.st_mode & 0o111 else 0o644)
        info.size, info.mtime = state.st_size, int(state.st_mtime)
        with open(layer.files[name], "rb") as handle:
            tar.addfile(info, handle)


def _info(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, mode
    return info


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _archive(
    images: Mapping[str, list[Stored]],
    target: pathlib.Path,
    env: Mapping[str, str],
    user: str,
    entrypoint: list[str] | None = None,
) -> None:
    """An archive as `docker save` writes it; layers that images share are in it once."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    manifest, done = [], set()
    with tarfile.open(target, "w") as tar:
        for name, parts in images.items():
            config = {
                "architecture": machine,
                "os": "linux",
                "config": {"Env": [f"{k}={v}" for k, v in env.items()], "User": user, "Entrypoint": entrypoint},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each.digest}" for each in parts]},
            }
            content = json.dumps(config).encode()
            config_name = f"{hashlib.sha256(content).hexdigest()}.json"
            _text(tar, config_name, content)
            for each in parts:
                if each.digest not in done:
                    done.add(each.digest)
                    tar.add(each.path, f"{each.digest}/layer.tar")
            manifest.append(
                {"Config": config_name, "RepoTags": [name], "Layers": [f"{each.digest}/layer.tar" for each in parts]}
            )
        _text(tar, "manifest.json", json.dumps(manifest).encode())


def _text(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))

"""images/Dockerfile as data, and the same contents laid out without a builder."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import venv

import httpx

from penstock.runtime import processes

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "images"
FILE = FOLDER / "Dockerfile"


@dataclasses.dataclass(frozen=True)
class Image:
    """One target: what its last stage copies, and what it runs."""

    name: str
    lock: pathlib.Path
    packages: tuple[str, ...]
    entry: tuple[str, ...]


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction, with continued lines joined."""
    text = re.sub(r"\\\n", " ", FILE.read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(line.split(None, 1)[0], " ".join(line.split(None, 1)[1].split())) for line in lines]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage, in order; the first of each is its FROM."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for each in instructions():
        if each[0] == "FROM":
            name = each[1].split()[-1]
            found[name] = []
        if name:
            found[name].append(each)
    return found


def images() -> dict[str, Image]:
    """The targets: every stage that has an ENTRYPOINT."""
    found = {}
    for name, body in stages().items():
        entry = next((json.loads(text) for word, text in body if word == "ENTRYPOINT"), None)
        if entry is None:
            continue
        copied = [text.split() for word, text in body if word == "COPY" and not text.startswith("--from")]
        packages = tuple(source for source, target in copied if source == target)
        found[name] = Image(name, FOLDER / f"{name}.lock", packages, tuple(entry))
    return found


@dataclasses.dataclass(frozen=True)
class Root:
    """What an image holds beside Python, in a folder of its own, and a clean interpreter to run it."""

    folder: pathlib.Path
    python: pathlib.Path

    @property
    def environment(self) -> dict[str, str]:
        """As the image's ENV has it."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{self.folder / 'app'}{os.pathsep}{self.folder / 'packages'}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def size_mb(self) -> float:
        """Of packages and application, MB."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if path.is_file()) / 1e6


def lay_out(image: Image, folder: pathlib.Path) -> Root:
    """Installs the image's lock and copies its packages. Raises AssertionError with pip's words."""
    packages, app = folder / "root" / "packages", folder / "root" / "app"
    install(image.lock, packages)
    for name in image.packages:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, app / name, ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(folder / "python", with_pip=False)
    return Root(folder / "root", folder / "python" / "bin" / "python")


def install(lock: pathlib.Path, target: pathlib.Path) -> None:
    """As the Dockerfile does it."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    command += ["--only-binary", ":all:", "--target", str(target), "-r", str(lock)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


def stated_mb() -> dict[str, int]:
    """Size of each image beside its base, MB, as images/README.md has it."""
    rows = re.findall(r"^\| `([a-z-]+)` \|.*\| (\d+) \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    return {name: int(size) for name, size in rows}


class Fleet:
    """What a worker, a gateway and a controller are told when they run from images, and a request to them."""

    def __init__(self, redis_url: str) -> None:
        """Ports are free ones of this machine."""
        self._port, admin, grpc, self._metrics, self._node = (processes.free_port() for _ in range(5))
        spec = {"id": "tiny-0", "deployment": "tiny", "model": "tiny", "namespace": "default"}
        self.environments = {
            "worker-sim": {"PENSTOCK_WORKER_SPEC": json.dumps(spec), "PENSTOCK_WORKER_REDIS_URL": redis_url},
            "gateway": {
                "PENSTOCK_GATEWAY_REDIS_URL": redis_url,
                "PENSTOCK_GATEWAY_PORT": str(self._port),
                "PENSTOCK_GATEWAY_ADMIN_PORT": str(admin),
            },
            "controller": {
                "PENSTOCK_CONTROLLER_REDIS_URL": redis_url,
                "PENSTOCK_CONTROLLER_HOST": "none",
                "PENSTOCK_CONTROLLER_GRPC_PORT": str(grpc),
                "PENSTOCK_CONTROLLER_METRICS_PORT": str(self._metrics),
            },
            "node-agent": {
                "PENSTOCK_NODE_ID": "node-1",
                "PENSTOCK_NODE_REDIS_URL": redis_url,
                "PENSTOCK_NODE_METRICS_PORT": str(self._node),
            },
        }

    def ready(self) -> bool:
        """Whether gateway, controller and node agent answer."""
        asked = ((self._port, "readyz"), (self._metrics, "metrics"), (self._node, "readyz"))
        return all(_answers(f"http://127.0.0.1:{port}/{path}") for port, path in asked)

    def ask(self) -> str:
        """The text of an answer. Fails where there is none."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        url = f"http://127.0.0.1:{self._port}/v1/chat/completions"
        answer = httpx.post(url, json=body, timeout=30.0, trust_env=False)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).is_success
    except httpx.TransportError:
        return False

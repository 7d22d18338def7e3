"""The images are built by buildah, and what they hold answers a request. The base is made of Debian's packages: no registry is asked."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, processes
from tests.support import containers
from tools import images

_NEEDED = ("buildah", "debootstrap")
_LACKING = [each for each in _NEEDED if shutil.which(each) is None]
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(_LACKING), reason=f"not installed: {', '.join(_LACKING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a root file system of Debian's is made by root"),
]
_BASE = "localhost/python:3.11-debian"
_SITES = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
# As the official base has them: `python`, pip that may install, headers to compile with.
_PACKAGES = "python3,python3-pip,python3-dev,ca-certificates"


class Builder:
    """A buildah with a store of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self.program = f"buildah --root {folder}/store --runroot {folder}/run --storage-driver overlay"
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def run(self, *args: str) -> str:
        """One command of it; what it says. Fails with its last words."""
        ran = subprocess.run([*self.program.split(), *args], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"buildah {args[0]}: {ran.stderr[-2000:]}"
        return ran.stdout.strip()

    def base(self) -> None:
        """An image with Debian's Python in place of the official one."""
        root = self._folder / "debian"
        made = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root)]
        ran = subprocess.run(made, capture_output=True, text=True, check=False)
        if ran.returncode:
            pytest.skip(f"Debian's packages cannot be had: {ran.stdout[-300:]}")
        (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)
        (root / "usr/bin/python").symlink_to("python3")
        container = self.run("from", "scratch")
        subprocess.run(["tar", "-C", str(root), "-cf", str(self._folder / "debian.tar"), "."], check=True)
        self.run("add", container, str(self._folder / "debian.tar"), "/")
        self.run("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
        self.run("commit", "--rm", container, _BASE)

    def build(self) -> float:
        """All images, by the project's own command; seconds."""
        flags = ["--layers", "--isolation", "chroot", "--pull-never", "--build-arg", f"BASE={_BASE}"]
        flags += ["--volume", f"{_SITES}:{_SITES}:ro"] if _SITES.exists() else []
        began_s = time.monotonic()
        argv = [
            sys.executable,
            "tools/images.py",
            "--builder",
            self.program,
            "--registry",
            "localhost",
            "--tag",
            "test",
            "--",
            *flags,
        ]
        ran = subprocess.run(argv, cwd=containers.ROOT, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, (ran.stdout + ran.stderr)[-3000:]
        return time.monotonic() - began_s

    def config(self, name: str) -> dict[str, Any]:
        """What an image runs, and as whom."""
        found: dict[str, Any] = json.loads(self.run("inspect", "--type", "image", tag(name)))["OCIv1"]["config"]
        return found

    def size_mb(self, image: str) -> float:
        """Of all layers of an image."""
        said = json.loads(self.run("images", "--json", image))[0]["size"]
        number, unit = said.split()
        return float(number) * {"MB": 1.0, "GB": 1000.0}[unit]

    def container(self, name: str) -> str:
        """A new one of an image."""
        return self.run("from", "--pull-never", tag(name))

    def log(self, name: str) -> str:
        """What a container has said."""
        return (self._folder / f"{name}.log").read_text()

    def start(self, name: str, **env: str) -> None:
        """Runs an image's entry point in a container on the network of the host."""
        container = self.container(name)
        variables = [flag for each in env.items() for flag in ("--env", "=".join(each))]
        entry = containers.images()[name].entry
        log = open(self._folder / f"{name}.log", "ab")  # noqa: SIM115  closed with the process
        argv = [*self.program.split(), "run", "--isolation", "chroot", *variables, container, "--", *entry]
        process = subprocess.Popen(processes.die_with_parent(argv), stdout=log, stderr=log, start_new_session=True)
        self._running.append((name, process))

    def until(self, check: Callable[[], bool]) -> None:
        """Waits for `check`; fails with what the containers say."""
        late_s = time.monotonic() + 90
        while not check():
            said = {name: self.log(name)[-1500:] for name, _ in self._running}
            assert time.monotonic() < late_s and all(each.poll() is None for _, each in self._running), said
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends the containers, and removes everything."""
        # What runs within has a session of its own, and outlives a buildah that is told to end.
        for _, process in self._running:
            with contextlib.suppress(psutil.NoSuchProcess):
                for each in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.terminate()
        for _, process in self._running:
            process.wait(30)
        self.run("rm", "--all")
        self.run("rmi", "--all", "--force")
        # Its storage keeps mounts of its own, which nothing could remove.
        mounted = [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        for each in sorted((path for path in mounted if path.startswith(f"{self._folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", each], check=True)
        shutil.rmtree(self._folder / "store")
        shutil.rmtree(self._folder / "debian")


def tag(name: str) -> str:
    """As the tests name an image."""
    return f"localhost/penstock-{name}:test"


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """With all images built."""
    made = Builder(tmp_path_factory.mktemp("buildah"))
    try:
        made.base()
        print(f"four images built in {made.build():.0f} s")
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("name", images.NAMES)
def test_an_image_is_what_the_dockerfile_says(builder: Builder, name: str) -> None:
    """It has its entry, a user without rights, and beside its base the size that images/README.md states."""
    config = builder.config(name)
    assert config["User"] == "65532:65532"
    assert tuple(config["Entrypoint"]) == containers.images()[name].entry
    stated = containers.stated_mb()[name]
    found = builder.size_mb(tag(name)) - builder.size_mb(_BASE)
    print(f"{name}: {found:.0f} MB beside the base")
    assert abs(found - stated) < 0.15 * stated


async def test_a_request_is_answered_by_built_images(builder: Builder, tmp_path: pathlib.Path) -> None:
    """Worker, gateway on its compiled hot path, controller and operator run as containers; the operator says what it lacks."""
    server = embedded_redis.EmbeddedRedis(tmp_path / "redis", clocks.SystemClock())
    await server.start()
    try:
        fleet = containers.Fleet(server.url)
        for name, environment in fleet.environments.items():
            builder.start(name, **environment)
        builder.until(fleet.ready)
        assert fleet.ask()
        assert '"compiled": true' in builder.log("gateway")
    finally:
        await server.stop()
    asked = [*builder.program.split(), "run", "--isolation", "chroot", builder.container("operator"), "--"]
    ran = subprocess.run([*asked, "python", "-m", "operators"], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 2 and "redis_url: required" in ran.stderr, ran.stderr

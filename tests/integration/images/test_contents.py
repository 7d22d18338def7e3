"""The images' contents, laid out from the same locks: they hold what they run, and are as large as images/README.md says."""

from __future__ import annotations

import concurrent.futures
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import pytest_asyncio

from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, processes
from tests.support import containers
from tools import images

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
_NAMES = images.NAMES


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, containers.Root]:
    """Every image's contents."""
    found = containers.images()
    folders = [tmp_path_factory.mktemp(name) for name in _NAMES]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        made = pool.map(containers.lay_out, (found[name] for name in _NAMES), folders)
        return dict(zip(_NAMES, made, strict=True))


@pytest_asyncio.fixture
async def redis_url(tmp_path: pathlib.Path) -> str:
    """A Redis."""
    server = embedded_redis.EmbeddedRedis(tmp_path / "redis", clocks.SystemClock())
    await server.start()
    yield server.url
    await server.stop()


class Children:
    """Processes of images, ended with the test."""

    def __init__(self, roots: dict[str, containers.Root], folder: pathlib.Path) -> None:
        self._roots, self._folder = roots, folder
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, **env: str) -> None:
        """Runs an image's entry point with these variables."""
        root = self._roots[name]
        entry = containers.images()[name].entry
        log = open(self._folder / f"{name}.log", "ab")  # noqa: SIM115  closed with the process
        command = processes.die_with_parent([str(root.python), *entry[1:]])
        self._running.append((name, subprocess.Popen(command, env=root.environment | env, stdout=log, stderr=log)))

    def log(self, name: str) -> str:
        """What it has said."""
        return (self._folder / f"{name}.log").read_text()

    def until(self, check: Callable[[], bool], deadline_s: float = 60.0) -> None:
        """Waits for `check`; fails where a process ends meanwhile."""
        late_s = time.monotonic() + deadline_s
        while not check():
            for name, process in self._running:
                assert process.poll() is None, f"{name} ended: {self.log(name)}"
            assert time.monotonic() < late_s, {name: self.log(name)[-1000:] for name, _ in self._running}
            time.sleep(0.05)

    def stop(self) -> dict[str, int]:
        """SIGTERM to all; their exit statuses."""
        for _, process in self._running:
            process.terminate()
        return {name: process.wait(30) for name, process in self._running}


@pytest.fixture
def children(roots: dict[str, containers.Root], tmp_path: pathlib.Path) -> Iterator[Children]:
    """Processes of images."""
    made = Children(roots, tmp_path)
    yield made
    made.stop()


async def test_a_request_is_answered_by_what_the_images_hold(children: Children, redis_url: str) -> None:
    """Gateway, controller and simulated worker run from their images' contents alone, and end when they are told to."""
    fleet = containers.Fleet(redis_url)
    for name, environment in fleet.environments.items():
        children.start(name, **environment)
    children.until(fleet.ready)
    assert fleet.ask()
    assert set(children.stop().values()) == {0}


@pytest.mark.parametrize(
    ("image", "module"),
    [
        ("operator", "operators.main"),
        ("operator", "operators.definitions"),
        ("worker-sim", "workers.hosting.beside_engine"),
        ("worker-sim", "workers.download"),
    ],
)
def test_an_image_holds_what_its_other_entries_import(
    roots: dict[str, containers.Root], image: str, module: str
) -> None:
    """The operator, the Job for definitions, the agent beside an engine and the download of models."""
    root = roots[image]
    ran = subprocess.run(
        [str(root.python), "-c", f"import {module}"], env=root.environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_controllers_image_has_the_command_line(roots: dict[str, containers.Root]) -> None:
    """`penstock doctor`, `status` and `simulate` are there."""
    root = roots["controller"]
    for command in ("status", "doctor", "simulate"):
        ran = subprocess.run(
            [str(root.python), "-m", "controller.cli.main", command, "--help"],
            env=root.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr


def test_sizes_are_those_that_are_stated(roots: dict[str, containers.Root]) -> None:
    """images/README.md gives each image's size beside its base, to a tenth."""
    stated = containers.stated_mb()
    found = {name: round(roots[name].size_mb()) for name in _NAMES}
    print(f"sizes, MB: {found}")
    assert set(stated) == set(found)
    wrong = {name: (stated[name], size) for name, size in found.items() if abs(size - stated[name]) > 0.1 * size}
    assert wrong == {}, "image: (stated, found)"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler here")
def test_the_gateway_runs_compiled(roots: dict[str, containers.Root], tmp_path: pathlib.Path) -> None:
    """The stage `hotpath` makes what the gateway of the image takes."""
    root = roots["gateway"]
    build = tmp_path / "app"
    shutil.copytree(root.folder / "app", build)
    (build / "tools").mkdir()
    shutil.copy(containers.ROOT / "tools" / "compile_hotpath.py", build / "tools")
    # What hotpath.lock and gateway.lock name is installed with this interpreter, in the same versions.
    compiled = subprocess.run(
        [sys.executable, "tools/compile_hotpath.py", "--strict"],
        cwd=build,
        env=root.environment | {"PYTHONPATH": str(build)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr
    # The image's user is not the one that compiled.
    assert all(each.stat().st_mode & 0o005 for each in (build / "build" / "compiled").iterdir())
    asked = "from penstock.runtime import compiled; assert compiled.activate(); import router.server.main; print(compiled.in_use())"
    ran = subprocess.run(
        [str(root.python), "-c", asked],
        cwd=tmp_path,
        env=root.environment | {"PYTHONPATH": f"{build}:{root.folder / 'packages'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.strip() == "True", ran.stderr

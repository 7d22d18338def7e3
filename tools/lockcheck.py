"""Fails where a lock file names a registry host, lacks a hash, or misses a dependency of pyproject.toml."""

from __future__ import annotations

import pathlib
import re
import sys
import tomllib

LOCKS = (
    "requirements.lock",
    "workers/vllm/requirements.lock",
    "benchmarks/gateway/requirements.lock",
    "tests/cluster/requirements.lock",
    "tests/envoy.lock",
    *(
        f"images/{name}.lock"
        for name in ("gateway", "controller", "operator", "node-agent", "worker-sim", "hotpath", "lint")
    ),
)


def _names(specs: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", spec)[0].lower().replace("_", "-") for spec in specs}


def problems(path: pathlib.Path) -> list[str]:
    """What is wrong with one lock file."""
    found = []
    text = path.read_text()
    if "://" in text or "--index" in text or "--find-links" in text:
        found.append(f"{path}: names a host")
    for entry in re.split(r"\n(?=\S)", text):
        if re.match(r"[a-z0-9]", entry, re.IGNORECASE) and "--hash=sha256:" not in entry:
            found.append(f"{path}: {entry.split()[0]} has no hash")
    return found


def main() -> int:
    """Entry point."""
    found = [problem for name in LOCKS if pathlib.Path(name).exists() for problem in problems(pathlib.Path(name))]
    project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())
    wanted = _names(project["project"]["dependencies"]) | _names(project["dependency-groups"]["dev"])
    for extra, specs in project["project"]["optional-dependencies"].items():
        if extra != "all":
            wanted |= _names(specs)
    locked = {
        match[1].lower().replace("_", "-")
        for match in re.finditer(r"^([A-Za-z0-9._-]+)==", pathlib.Path("requirements.lock").read_text(), re.MULTILINE)
    }
    found += [f"requirements.lock: {name} is missing: run `make lock`" for name in sorted(wanted - locked)]
    print("\n".join(found), file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The chart rendered for kustomize, below manifests/."""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import subprocess

CHART = pathlib.Path("helm/penstock")
VALUES = pathlib.Path("tools/chart/kustomize-values.yaml")
OUT = pathlib.Path("manifests/penstock.yaml")
_MARK = "# Rendered from a chart with hash "


def helm() -> str | None:
    """The helm of PENSTOCK_HELM, of the tests' control plane, or of PATH; None where there is none."""
    own = os.environ.get("PENSTOCK_HELM")
    if own:
        return own
    from tests.cluster import binaries

    try:
        kept = binaries.find(os.environ).folder / "helm"
    except binaries.Unavailable:
        kept = None
    return str(kept) if kept is not None and kept.exists() else shutil.which("helm")


def digest() -> str:
    """Changes with everything that the rendering is made of."""
    state = hashlib.sha256()
    parts = [each for each in CHART.rglob("*") if each.is_file() and each.name != "NOTES.txt"]
    for path in sorted([VALUES, *parts]):
        state.update(path.as_posix().encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:16]


def render(program: str) -> str:
    """The manifests. Raises CalledProcessError with Helm's words in `stderr`."""
    command = [program, "template", "penstock", str(CHART), "--namespace", "penstock", "--values", str(VALUES)]
    made = subprocess.run([*command, "--no-hooks", "--skip-tests"], capture_output=True, text=True, check=True)
    head = f"# Generated from helm/penstock by `make generate`; do not edit.\n{_MARK}{digest()}\n"
    return head + made.stdout


def write() -> list[str]:
    """Writes the manifests; what is wrong."""
    program = helm()
    if program is None:
        return [] if not check() else [f"{OUT} is not rendered anew: no helm here (`make cluster` builds it)"]
    try:
        OUT.write_text(render(program))
    except subprocess.CalledProcessError as exc:
        return [f"helm template: {exc.stderr.strip()}"]
    return []


def check() -> list[str]:
    """What is wrong with the committed manifests."""
    text = OUT.read_text() if OUT.exists() else ""
    if _MARK + digest() not in text:
        return [f"{OUT} is not rendered from the present chart: run `make generate` where helm is"]
    program = helm()
    if program is None:
        print(f"{OUT}: compared by the chart's hash only, there is no helm here")
        return []
    try:
        same = render(program) == text
    except subprocess.CalledProcessError as exc:
        return [f"helm template: {exc.stderr.strip()}"]
    return [] if same else [f"{OUT} differs from what helm renders: run `make generate`"]

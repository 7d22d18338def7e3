"""The chart rendered by helm, as objects."""

from __future__ import annotations

import pathlib
import subprocess
from typing import Any

import pytest
import yaml

from tools.chart import rendered

Object = dict[str, Any]
CHART = pathlib.Path(__file__).parents[2] / "helm" / "penstock"


def program() -> str:
    """The helm to use; skips the test where there is none."""
    found = rendered.helm()
    if found is None:
        pytest.skip("there is no helm here: `make cluster` builds it, PENSTOCK_HELM names another")
    return found


def template(*sets: str, release: str = "rel", namespace: str = "ns") -> list[Object]:
    """All objects of a release with these `--set` values. Raises ValueError with helm's words where it refuses."""
    command = [program(), "template", release, str(CHART), "--namespace", namespace]
    for each in sets:
        command += ["--set-json" if "=[" in each or "={" in each else "--set", each]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise ValueError(ran.stderr)
    return [each for each in yaml.safe_load_all(ran.stdout) if each]


def one(objects: list[Object], kind: str, name: str) -> Object:
    """The object of a kind whose name ends so."""
    found = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    assert len(found) == 1, (kind, name, [each["metadata"]["name"] for each in found])
    return found[0]


def pod_specs(objects: list[Object]) -> dict[str, Object]:
    """The specification of every Pod that these objects lead to, by kind and name."""
    specs = {}
    for each in objects:
        name = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] == "Pod":
            specs[name] = each["spec"]
        elif each["kind"] in ("Deployment", "StatefulSet", "Job", "DaemonSet"):
            specs[name] = each["spec"]["template"]["spec"]
    return specs

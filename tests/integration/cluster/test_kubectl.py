"""What a user sees with kubectl: ours, or the one on PATH."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable

import pytest
import yaml

from tests.cluster import api, binaries
from tests.support import custom_resources as support

Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def kubectl(server: api.Api, access: api.Access, namespace: str, tmp_path: pathlib.Path) -> Kubectl:
    """Runs kubectl in the test's namespace, with a HOME of its own."""
    try:
        program = str(binaries.find(os.environ).path("kubectl"))
    except binaries.Unavailable as exc:
        found = shutil.which("kubectl")
        if found is None:
            pytest.skip(f"there is no kubectl on PATH, and none built: {exc}")
        program = found
    config = tmp_path / "kubeconfig"
    config.write_text(access.kubeconfig())
    config.chmod(0o600)

    def run(*args: str, document: support.Object | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, "--kubeconfig", str(config), "--namespace", namespace, *args],
            input=yaml.safe_dump(document) if document else None,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_apply_get_scale_wait_explain(kubectl: Kubectl, server: api.Api, namespace: str) -> None:
    """A deployment is applied, listed, scaled, waited for, described and explained by its short name."""
    document = support.valid()[4]
    assert kubectl("apply", "-f", "-", document=document).stdout == "modeldeployment.penstock.dev/simulated created\n"
    listed = kubectl("get", "md").stdout.splitlines()
    assert listed[0].split() == ["NAME", "MODEL", "READY", "WORKERS", "REPLICAS", "REASON", "AGE"]
    assert listed[1].split()[:2] == ["simulated", "tiny"]
    assert "ENGINE" in kubectl("get", "md", "-o", "wide").stdout
    assert kubectl("scale", "md/simulated", "--replicas", "3").returncode == 0
    assert json.loads(kubectl("get", "md", "simulated", "-o", "json").stdout)["spec"]["replicas"] == 3
    condition = {"type": "Ready", "status": "True", "reason": "AllReady", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    path = f"{api.path_of(document, namespace)}/simulated/status"
    assert server.merge(path, {"status": {"conditions": [condition]}}).is_success
    assert kubectl("wait", "--for=condition=Ready", "--timeout=10s", "md/simulated").returncode == 0
    assert "AllReady" in kubectl("describe", "md", "simulated").stdout
    explained = kubectl("explain", "md.spec.scaling.maxReplicas").stdout
    assert "Most replicas" in explained
    assert "simulated" in kubectl("get", "penstock").stdout


def test_a_refusal_says_what_is_allowed(kubectl: Kubectl) -> None:
    """A wrong object and a wrong scale end with the field and what may stand there."""
    document = support.valid()[4]
    document["spec"] |= {"scaling": {"minReplicas": 1, "maxReplicas": 4}}
    assert kubectl("apply", "-f", "-", document=document).returncode == 0
    refused = kubectl("scale", "md/simulated", "--replicas", "9")
    assert refused.returncode != 0
    assert "spec.replicas" in refused.stderr
    assert "must lie between scaling.minReplicas and scaling.maxReplicas" in refused.stderr
    document["spec"] |= {"drain": {"timeout": "10 minutes"}}
    refused = kubectl("apply", "-f", "-", document=document)
    assert "spec.drain.timeout" in refused.stderr
    document["spec"] |= {"drain": {"timout": "10m"}}
    refused = kubectl("apply", "-f", "-", document=document)
    assert 'unknown field "spec.drain.timout"' in refused.stderr

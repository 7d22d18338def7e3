"""Each value of the chart changes what is rendered: one that did not would be a promise that nothing keeps."""

from __future__ import annotations

import copy
import functools
import json
import pathlib
import subprocess
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import pytest

from tests.support import charts
from tools import chartgen
from tools.chart import values

# What the values are tried on: with all that is optional, and with what excludes some of that.
# A Secret of Redis that is there already: the chart's own has another password each time.
PLAIN: dict[str, Any] = {"redis.existingSecret": "redis"}
FULL: dict[str, Any] = {
    "redis.existingSecret": "redis",
    "gateway.autoscaling.enabled": True,
    "gateway.tls": {"mode": "certManager", "issuer": {"name": "ca"}},
    "gateway.pickerPort": 9002,
    "gateway.apiKeysSecret": "keys",
    "controller.tlsSecret": "control",
    "agents.tls": {"mode": "secret", "secretName": "agents", "clientSecretName": "clients"},
    "nodeAgent.enabled": True,
    "monitoring.serviceMonitor.enabled": True,
    "monitoring.rules.enabled": True,
    "monitoring.dashboards.enabled": True,
}
OTHER: dict[str, Any] = {
    "gateway.tls": {"mode": "secret", "secretName": "tls"},
    "monitoring.podMonitor.enabled": True,
    "redis": {"mode": "external", "existingSecret": "redis"},
    "serviceAccounts.create": False,
    "operator.enabled": False,
}
# Of another value than `changed` makes.
SPECIAL: dict[str, Any] = {
    "bindAddress": "::",
    "images.pullPolicy": "Always",
    "images.pullSecrets": ["pull"],
    "gateway.settings": {"policy": "round-robin"},
    "controller.settings": {"lease_s": 7.0},
    "operator.settings": {"vllm_image": "example.com/vllm:1"},
    "nodeAgent.settings": {"expect": ["rapl"]},
    "gateway.service.type": "LoadBalancer",
    "gateway.service.nodePort": 30080,
    "gateway.tls.mode": "selfSigned",
    "gateway.tls.issuer.kind": "Issuer",
    "gateway.spreadOver": ["rack"],
    "gateway.tls.dnsNames": ["llm.example"],
    "agents.tls.mode": "selfSigned",
    "redis.mode": "external",
    "redis.bundled.command": ["valkey-server"],
    "networkPolicies.monitoring": [{"podSelector": {}}],
    "networkPolicies.workers": [{"podSelector": {}}],
}
# Values that need another one with them.
BESIDE: dict[str, dict[str, Any]] = {
    "gateway.service.nodePort": {"gateway.service.type": "NodePort"},
    "redis.mode": {"redis.existingSecret": "redis"},
    "serviceAccounts.existing": {"serviceAccounts.create": False},
}


def changed(key: str, default: Any) -> Any:
    """Another value that the schema takes."""
    if key in SPECIAL:
        return SPECIAL[key]
    name = key.rpartition(".")[2]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if name == "tolerations":
        return [{"key": "changed", "operator": "Exists"}]
    if name == "affinity":
        return {"podAntiAffinity": {"changed": []}}
    if isinstance(default, dict):
        return {"changed": "yes"}
    if name in {"cpu", "memory", "size"}:
        return "777"
    return "77s" if name == "interval" else "changed"


def rendered(tmp_path: pathlib.Path, *sets: dict[str, Any]) -> str:
    """The release with these values, the later ones first in rank; what helm refuses with, where it does."""
    return _rendered(tmp_path, json.dumps(_nested(sets)))


@functools.cache
def _rendered(tmp_path: pathlib.Path, text: str) -> str:
    path = tmp_path / f"{hash(text)}.json"
    path.write_text(text)
    command = [charts.program(), "template", "rel", str(charts.CHART), "--namespace", "ns", "--values", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout if ran.returncode == 0 else f"refused: {ran.stderr}"


def _nested(sets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in (item for each in sets for item in each.items()):
        at = found
        *folders, name = key.split(".")
        for folder in folders:
            at = at.setdefault(folder, {})
        at[name] = copy.deepcopy(value)
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_value_has_an_effect(tmp_path: pathlib.Path) -> None:
    """Changed alone it changes the objects, in one of three releases at least."""
    for each in (FULL, PLAIN, OTHER):
        once = rendered(tmp_path, each)
        _rendered.cache_clear()
        assert rendered(tmp_path, each) == once, "nothing in it may be drawn at random"
    with futures.ThreadPoolExecutor(2) as pool:
        rows = [(key, default) for key, default, _ in chartgen._rows(values.Chart(), "")]
        idle = list(pool.map(lambda row: without_effect(tmp_path, *row), rows))
    assert [each for each in idle if each] == []


def without_effect(tmp_path: pathlib.Path, key: str, default: str) -> str:
    """A value that changes nothing, with why; empty for one that does."""
    beside = BESIDE.get(key, {})
    change = beside | {key: changed(key, None if default == "unset" else json.loads(default))}
    told = ""
    for stage in (FULL, PLAIN, OTHER):
        before, after = rendered(tmp_path, stage, beside), rendered(tmp_path, stage, change)
        assert not before.startswith("refused"), before
        if after != before and not after.startswith("refused"):
            return ""
        told = after[:300] if after.startswith("refused") else "nothing changes"
    return f"{key}: {told}"

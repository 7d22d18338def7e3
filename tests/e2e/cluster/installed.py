"""The chart on real nodes, as its README says, with one image for all components and little asked for."""

from __future__ import annotations

import base64
import json
import pathlib
import subprocess
import sys
from typing import Any

import yaml

from tests.cluster import tools
from tests.cluster.node import image, layers

CHART = layers.ROOT / "helm" / "penstock"
SPACE = "penstock"
VALUES: dict[str, Any] = {
    "images": {"single": image.PENSTOCK, "pullPolicy": "Never"},
    "gateway": {"preStopSeconds": 3, "drainSeconds": 30, "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}},
    "agents": {"tls": {"mode": "selfSigned"}},
    "controller": {"resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}},
    "operator": {"resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}},
    "redis": {
        "bundled": {
            "image": image.PENSTOCK,
            "command": ["redis-server"],
            "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
        }
    },
}
COMPONENTS = {"gateway": 2, "controller": 2, "operator": 2, "redis": 1}


def install(
    kube: tools.Tools, folder: pathlib.Path, *more: str, verb: str = "install", chart: pathlib.Path = CHART
) -> str:
    """`helm install` (or upgrade) into a namespace of its own; what helm prints."""
    values = folder / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES))
    args = [verb, "penstock", str(chart), "--values", str(values), *more]
    args += ["--create-namespace"] if verb == "install" else []
    return kube.helm(*args, "--wait", "--timeout=180s")


def gateway_url(kube: tools.Tools) -> str:
    """Where the gateways' Service is."""
    service = kube.get("service", "penstock-gateway")
    return f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"


def pods(kube: tools.Tools, selector: str) -> list[dict[str, Any]]:
    """Pods that are not on their way out."""
    found = kube.get("pods", "-l", selector)
    return [each for each in found if "deletionTimestamp" not in each["metadata"]]


def drain_by_hand(kube: tools.Tools, folder: pathlib.Path, worker: str, pod: dict[str, Any]) -> None:
    """`penstock drain --agent` with the chart's client certificate, which goes to a folder."""
    for name, text in kube.get("secret", "penstock-agent-client")["data"].items():
        (folder / name).write_bytes(base64.b64decode(text))
    address = f"{pod['status']['podIP']}:8002"
    command = [sys.executable, "-m", "controller.cli.main", "drain", worker, "--agent", address]
    files = ["--tls-ca", "ca.crt", "--tls-cert", "tls.crt", "--tls-key", "tls.key"]
    told = subprocess.run([*command, *files], cwd=folder, capture_output=True, text=True, check=False)
    assert told.returncode == 0 and told.stdout.startswith(f"{worker}: "), told.stderr


def status(kube: tools.Tools) -> dict[str, Any]:
    """What `penstock status --json` says; empty where no controller answers."""
    controller = pods(kube, "app.kubernetes.io/component=controller")[0]["status"]["podIP"]
    command = [sys.executable, "-m", "controller.cli.main", "status", "--controller", f"{controller}:7070", "--json"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(asked.stdout or "{}")
    return found


def ready(pod: dict[str, Any]) -> bool:
    """Whether Kubernetes takes a Pod for ready."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))

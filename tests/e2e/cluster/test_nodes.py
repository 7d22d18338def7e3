"""The nodes themselves: what the other tests of this folder stand on, and that the machine stays as it was."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import psutil
import pytest

from tests.cluster import tools
from tests.cluster.node import image, layers, machine, session

SERVE = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8080, bind='0.0.0.0')"


@pytest.fixture(scope="module")
def space(cluster: session.RealCluster, kube: tools.Tools) -> Iterator[tools.Tools]:
    """kubectl in a namespace that only lets Pods in which ask for nothing special."""
    with cluster.entered():
        kube.kubectl("create", "namespace", "nodes")
        kube.kubectl("label", "namespace", "nodes", "pod-security.kubernetes.io/enforce=restricted")
        yield kube.within("nodes")
        kube.kubectl("delete", "namespace", "nodes")


def pod_spec(command: list[str]) -> tools.Object:
    """A Pod of the project's image that is as little trusted as the chart's."""
    return {
        "terminationGracePeriodSeconds": 1,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "c",
                "image": image.PENSTOCK,
                "command": command,
                "workingDir": "/tmp",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }


def test_pods_of_a_service_are_spread_and_answer(space: tools.Tools) -> None:
    """Pods on both nodes are behind one Service, by its address and, from a Pod, by its name."""
    labels = {"app": "web"}
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    spec = pod_spec(["python", "-c", SERVE]) | {
        "topologySpreadConstraints": [spread | {"labelSelector": {"matchLabels": labels}}]
    }
    spec["containers"][0]["readinessProbe"] = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    space.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        },
    )
    space.wait("--for=condition=Available", "deployment/web")
    assert {each["spec"]["nodeName"] for each in space.get("pods", "-l", "app=web")} == {"node-1", "node-2"}
    address = space.get("service", "web")["spec"]["clusterIP"]
    tools.until("the Service answers", lambda: status(f"http://{address}/") == 200)
    ask = "import urllib.request as u; print(u.urlopen('http://web.nodes.svc:80/', timeout=10).status)"
    asked = pod_spec(["python", "-c", ask]) | {"restartPolicy": "Never"}
    space.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ask"}, "spec": asked})
    space.wait("--for=jsonpath={.status.phase}=Succeeded", "pod/ask")
    assert space.kubectl("logs", "ask") == "200\n"


def test_a_drained_node_gives_its_pods_to_the_other(space: tools.Tools) -> None:
    """After a drain every Pod of the Deployment runs on the node that is left."""
    space.kubectl("patch", "deployment", "web", "--type=json", "-p", UNSPREAD)
    space.kubectl("drain", "node-2", "--ignore-daemonsets", "--delete-emptydir-data", "--force")
    try:
        space.wait("--for=condition=Available", "deployment/web")
        tools.until("all on node-1", lambda: nodes_of(space) == {"node-1"})
    finally:
        space.kubectl("uncordon", "node-2")


def status(url: str) -> int:
    """HTTP status of an answer; 0 while none comes, as before kube-proxy has heard of the Pods."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except OSError:
        return 0


UNSPREAD = '[{"op": "remove", "path": "/spec/template/spec/topologySpreadConstraints"}]'


def nodes_of(space: tools.Tools) -> set[str]:
    """Where the Deployment's Pods are."""
    return {each["spec"].get("nodeName", "") for each in space.get("pods", "-l", "app=web")}


def test_the_image_holds_the_lock_and_the_project(space: tools.Tools) -> None:
    """Every module of the project that is shipped can be imported in the image, as a user without rights."""
    spec = pod_spec(["python", "-c", WALK]) | {"restartPolicy": "Never"}
    space.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "walk"}, "spec": spec})
    ended = ("Succeeded", "Failed")
    tools.until("walk ended", lambda: space.get("pod", "walk")["status"].get("phase") in ended)
    assert space.kubectl("logs", "walk") == f"uid {layers.USER}\n"


# Ray is in an image of its own, vLLM in its maker's.
WALK = """
import importlib, os, pkgutil
for root in ("penstock", "router", "controller", "workers", "operators", "autoscaler", "simulator", "kvcache", "power"):
    for module in pkgutil.walk_packages(importlib.import_module(root).__path__, root + "."):
        try:
            if "__main__" not in module.name:
                importlib.import_module(module.name)
        except ModuleNotFoundError as exc:
            if exc.name.partition(".")[0] not in ("ray", "vllm"):
                raise
print("uid", os.getuid())
"""


def test_the_machine_keeps_its_settings(cluster: session.RealCluster) -> None:
    """While kubelets run, what they would change machine-wide is what it was."""
    assert machine.settings() == cluster.settings_before


def test_a_killed_session_leaves_nothing() -> None:
    """Where the process that holds a cluster is killed, its processes go with it, and the next one removes the rest."""
    holder = (
        "import os, sys\n"
        "from tests.cluster import binaries\n"
        "from tests.cluster.node import session\n"
        "c = session.RealCluster()\n"
        "c.start(binaries.find(os.environ), [])\n"
        "print(c.folder, flush=True)\n"
        "sys.stdin.read()\n"
    )
    before, settings = mounts(), machine.settings()
    with subprocess.Popen(
        [sys.executable, "-c", holder],
        cwd=layers.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        folder = pathlib.Path(process.stdout.readline().strip())
        assert folder.is_dir()
        process.kill()
    tools.until("processes are gone", lambda: not processes_of(folder))
    tools.until("swept", lambda: not folder.exists() or folder.name in session.sweep())
    assert not folder.exists()
    assert not any(each.exists() for each in machine.cgroup_folders(folder.name))
    assert machine.settings() == settings
    assert mounts() == before


def processes_of(folder: pathlib.Path) -> list[str]:
    """Processes that were started with a file of this folder."""
    return [" ".join(each.info["cmdline"]) for each in psutil.process_iter(["cmdline"]) if names(each, folder)]


def names(process: psutil.Process, folder: pathlib.Path) -> bool:
    """Whether the folder is in a process's command line."""
    return any(str(folder) in part for part in process.info["cmdline"] or ())


def mounts() -> set[str]:
    """Where something is mounted, as this process sees it."""
    return {line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()}

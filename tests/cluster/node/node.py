"""One node: containerd, and a kubelet that starts Pods with it. Called inside of namespaces of its own (keeper.py)."""

from __future__ import annotations

import json
import pathlib
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import yaml

from penstock.runtime import processes
from tests.cluster import binaries, flags
from tests.cluster.node import image, machine
from tests.support import certificates

_DEADLINE_S = 60.0
_MORE_THAN_A_PROBE_NEEDS = 110


class Node:
    """A node with an address and a range of Pod addresses of its own. Several share a kernel and a network namespace."""

    def __init__(self, number: int, folder: pathlib.Path, programs: binaries.Binaries, group: str) -> None:
        """`number` counts from 1; `group` is the control group that holds everything that Pods are."""
        self.name = flags.node_name(number)
        self.address = flags.node_address(number)
        self._number = number
        self._folder = folder / self.name
        self._folder.mkdir()
        self._programs = programs
        self._group = group
        self._socket = self._folder / "containerd.sock"
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._imports: list[subprocess.Popen[str]] = []

    def start_containerd(self, archives: Sequence[pathlib.Path]) -> None:
        """Returns when it answers; `finish_imports` waits for the images."""
        config = self._folder / "containerd.json"
        config.write_text(_toml(self._containerd()))
        network = self._folder / "cni"
        network.mkdir()
        (network / "10-pods.conflist").write_text(json.dumps(self._network()))
        self._run("containerd", ["containerd", "--config", str(config)])
        self._until("containerd", ["version"])
        self._imports = [self._ctr(["images", "import", str(archive)]) for archive in archives]

    def finish_imports(self) -> None:
        """Returns when the images are there. Raises AssertionError where one cannot be had."""
        for importing in self._imports:
            _finish(importing)
        self._imports = []

    def start_kubelet(self, kubeconfig: pathlib.Path, authority: certificates.Authority) -> None:
        """Starts kubelet; the node registers itself with the API server."""
        serving = authority.issue(self.name, self.address)
        config = self._folder / "kubelet.yaml"
        config.write_text(yaml.safe_dump(self._kubelet(authority.file, serving)))
        self._run(
            "kubelet",
            [
                str(self._programs.path("kubelet")),
                f"--config={config}",
                f"--kubeconfig={kubeconfig}",
                f"--root-dir={self._folder / 'kubelet'}",
                f"--hostname-override={self.name}",
                f"--node-ip={self.address}",
                f"--node-labels=topology.kubernetes.io/zone=zone-{self._number}",
            ],
        )

    def check(self) -> None:
        """Raises AssertionError with the end of a log where something has ended."""
        for name, process in self._running:
            assert process.poll() is None, f"{name} of {self.name} ended:\n{self._log(name).read_text()[-3000:]}"

    def _run(self, name: str, argv: list[str]) -> None:
        with open(self._log(name), "ab") as log:
            process = subprocess.Popen(processes.die_with_parent(argv), stdout=log, stderr=log)
        self._running.append((name, process))

    def _log(self, name: str) -> pathlib.Path:
        return self._folder / f"{name}.log"

    def _ctr(self, args: list[str]) -> subprocess.Popen[str]:
        command = ["ctr", "--address", str(self._socket), "--namespace", "k8s.io", *args]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def _until(self, name: str, args: list[str]) -> None:
        deadline_s = time.monotonic() + _DEADLINE_S
        while True:
            self.check()
            try:
                _finish(self._ctr(args))
                return
            except AssertionError:
                assert time.monotonic() < deadline_s, f"{name}:\n{self._log(name).read_text()[-3000:]}"
                time.sleep(0.05)

    def _containerd(self) -> dict[str, Any]:
        runc = {"runtime_type": "io.containerd.runc.v2", "options": {"SystemdCgroup": False}}
        return {
            "version": 2,
            "root": str(self._folder / "containerd"),
            "state": str(self._folder / "run"),
            "oom_score": 0,
            "grpc": {"address": str(self._socket)},
            "plugins": {
                "io.containerd.grpc.v1.cri": {
                    "sandbox_image": image.PAUSE,
                    # Lowering it is refused where a machine has no CAP_SYS_RESOURCE.
                    "restrict_oom_score_adj": True,
                    "disable_hugetlb_controller": True,
                    "tolerate_missing_hugetlb_controller": True,
                    "containerd": {
                        "snapshotter": "overlayfs",
                        "default_runtime_name": "runc",
                        "runtimes": {"runc": runc},
                    },
                    "cni": {"bin_dir": str(machine.CNI), "conf_dir": str(self._folder / "cni")},
                }
            },
        }

    def _network(self) -> dict[str, Any]:
        bridge = {
            "type": "bridge",
            "bridge": flags.bridge(self._number),
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(self._folder / "addresses"),
                "ranges": [[{"subnet": flags.pod_range(self._number)}]],
                # Without a way back, answers from Services would be lost.
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "0.4.0", "name": f"pods-{self._number}", "plugins": [bridge, ports]}

    def _kubelet(self, authority: pathlib.Path, serving: certificates.Files) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "healthzPort": 0,
            "readOnlyPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.cert),
            "tlsPrivateKeyFile": str(serving.key),
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._group}/{self.name}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "oomScoreAdj": 0,
            "localStorageCapacityIsolation": False,
            "podLogsDir": str(self._folder / "pods"),
            "maxPods": _MORE_THAN_A_PROBE_NEEDS,
            # The disk is the machine's: that it is nearly full is no reason to evict Pods of a test.
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "nodeStatusUpdateFrequency": "5s",
            "syncFrequency": "5s",
            "clusterDNS": [flags.NODE_GATEWAY],
            "clusterDomain": "cluster.local",
        }


def _finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate()
    assert process.returncode == 0, f"{process.args!r}: {said[-1000:]}"


def _toml(table: dict[str, Any], prefix: str = "") -> str:
    """Nested tables of strings, numbers and truth values as TOML."""
    lines, below = [], []
    for name, value in table.items():
        key = json.dumps(name)
        if isinstance(value, dict):
            below.append(f"[{prefix}{key}]\n{_toml(value, f'{prefix}{key}.')}")
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join([*lines, *below])

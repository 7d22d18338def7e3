"""The process that everything of a real cluster runs under: `python -m tests.cluster.node.keeper FOLDER NODES ARCHIVE...`.

It is process 1 of namespaces of its own (session.py makes them). So mounts, network devices and processes are gone when it
is, however it ends, and nothing needs to be stopped. It prints one line of JSON when the nodes are ready, and ends when its
standard input does.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from penstock.runtime import processes
from tests.cluster import api, binaries, control_plane, flags
from tests.cluster.node import machine, node

_DEADLINE_S = 60.0
# Where programs write whatever they are told. Inside, the machine's folders are covered by empty ones, or by a layer.
_COVERED = ("/run", "/var/log", "/mnt")
_LAYERED = ("/var/lib", "/etc")


def main(arguments: Sequence[str]) -> int:
    """Entry point."""
    folder, count, archives = pathlib.Path(arguments[0]), int(arguments[1]), [pathlib.Path(a) for a in arguments[2:]]
    # Only the end of standard input ends it: Ctrl-C is for the one who started it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cluster = Cluster(folder, count, archives)
    try:
        cluster.start()
        ready = {"kubeconfig": str(cluster.plane.kubeconfig), "times_s": cluster.times_s}
        print(json.dumps(ready), flush=True)
        sys.stdin.read()
    except (AssertionError, OSError, subprocess.CalledProcessError, binaries.Unavailable) as exc:
        print(json.dumps({"error": f"{type(exc).__name__}: {exc}"}), flush=True)
        return 1
    return 0


class Cluster:
    """A control plane, nodes, Services and names."""

    def __init__(self, folder: pathlib.Path, count: int, archives: Sequence[pathlib.Path]) -> None:
        self._folder = folder
        self._archives = archives
        self._programs = binaries.find(os.environ)
        self._programs.need("kubelet", "kube-proxy", "coredns", "pause")
        group = folder.name
        extras = control_plane.Extras(controllers=True, address=flags.NODE_GATEWAY)
        plane = folder / "plane"
        plane.mkdir()
        self.plane = control_plane.ControlPlane(self._programs, plane, extras)
        self._nodes = [node.Node(number, folder, self._programs, group) for number in range(1, count + 1)]
        for each in self._nodes:
            for made in machine.cgroup_folders(f"{group}/{each.name}"):
                made.mkdir(parents=True)
        self._others: list[subprocess.Popen[bytes]] = []
        self.times_s: dict[str, float] = {}

    def start(self) -> None:
        """Returns when all nodes are ready. Raises AssertionError with the end of a log where one is not."""
        began_s = time.monotonic()
        _cover(self._folder)
        _network(len(self._nodes))
        for each in self._nodes:
            each.start_containerd(self._archives)
        self.plane.start()
        self.times_s["control plane"] = time.monotonic() - began_s
        for each in self._nodes:
            each.finish_imports()
        self.times_s["images"] = time.monotonic() - began_s
        for each in self._nodes:
            each.start_kubelet(self.plane.kubeconfig_of(each.name), self.plane.authority)
        self._run("kube-proxy", self._proxy_flags())
        self._run("coredns", ["-conf", str(self._names())])
        self._until_ready()
        self.times_s["ready"] = time.monotonic() - began_s

    def _run(self, name: str, arguments: list[str]) -> None:
        argv = processes.die_with_parent([str(self._programs.path(name)), *arguments])
        with open(self._folder / f"{name}.log", "ab") as log:
            self._others.append(subprocess.Popen(argv, stdout=log, stderr=log))

    def _until_ready(self) -> None:
        client = api.Api(self.plane.access)
        deadline_s = time.monotonic() + _DEADLINE_S
        while True:
            for each in self._nodes:
                each.check()
            states = {
                item["metadata"]["name"]: {c["type"]: c["status"] for c in item["status"].get("conditions", [])}
                for item in client.get("/api/v1/nodes").json()["items"]
            }
            if all(states.get(each.name, {}).get("Ready") == "True" for each in self._nodes):
                client.close()
                return
            assert time.monotonic() < deadline_s, f"nodes are not ready: {states}"
            time.sleep(0.05)

    def _proxy_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self.plane.kubeconfig_of('kube-proxy')}",
            "--proxy-mode=iptables",
            f"--hostname-override={self._nodes[0].name}",
            "--bind-address=127.0.0.1",
            "--healthz-bind-address=127.0.0.1:10256",
            "--metrics-bind-address=127.0.0.1:10249",
            # These limits are the machine's.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]

    def _names(self) -> pathlib.Path:
        corefile = self._folder / "Corefile"
        config = self.plane.kubeconfig_of("coredns")
        corefile.write_text(
            f".:53 {{\n  bind {flags.NODE_GATEWAY}\n  errors\n  cache 2\n"
            f"  kubernetes cluster.local {{\n    kubeconfig {config}\n    ttl 2\n  }}\n}}\n"
        )
        return corefile


def _cover(folder: pathlib.Path) -> None:
    """What programs write elsewhere than they are told stays in `folder`, or in memory."""
    for name in _LAYERED:
        upper, work = folder / "over" / name.strip("/") / "upper", folder / "over" / name.strip("/") / "work"
        upper.mkdir(parents=True)
        work.mkdir(parents=True)
        _call("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={name},upperdir={upper},workdir={work}", name)
    for name in _COVERED:
        _call("mount", "-t", "tmpfs", "tmpfs", name)
    # kubelet sees what it wants, and so leaves the machine's settings alone.
    for name, value in machine.KUBELET_WANTS.items():
        if (machine.SETTINGS / name).exists():
            shown = folder / "settings" / name
            shown.parent.mkdir(parents=True, exist_ok=True)
            shown.write_text(value + "\n")
            _call("mount", "--bind", str(shown), str(machine.SETTINGS / name))


def _network(nodes: int) -> None:
    """Addresses of the nodes and of their gateway on a device that leads nowhere, and a bridge for each node's Pods."""
    _call("ip", "link", "set", "lo", "up")
    _call("ip", "link", "add", "nodes", "type", "bridge")
    for address in (flags.NODE_GATEWAY, *(flags.node_address(number) for number in range(1, nodes + 1))):
        _call("ip", "address", "add", f"{address}/24", "dev", "nodes")
    _call("ip", "link", "set", "nodes", "up")
    # Programs look for a default route to find out who they are.
    _call("ip", "route", "add", "default", "via", "10.99.0.253", "dev", "nodes")
    (machine.SETTINGS / "net/ipv4/ip_forward").write_text("1")


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

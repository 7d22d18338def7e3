"""NetworkPolicies that are enforced: kube-router's controller on the network that the nodes share."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from penstock.runtime import processes
from tests.cluster import binaries, flags, tools
from tests.cluster.node import session

_STOP_S = 30.0


@contextlib.contextmanager
def enforcing(cluster: session.RealCluster, programs: binaries.Binaries) -> Iterator[None]:
    """Called within the cluster's network. Rules are there when it begins, and gone when it ends."""
    log_path = cluster.folder / "netpol.log"
    command = [
        str(programs.path("netpol")),
        f"--kubeconfig={cluster.kubeconfig}",
        f"--node={flags.node_name(1)}",
        f"--address={flags.node_address(1)}",
        f"--services={flags.SERVICE_RANGE}",
    ]
    with open(log_path, "wb") as log:
        running = subprocess.Popen(processes.die_with_parent(command), stdout=log, stderr=log)
    try:
        tools.until("rules", lambda: running.poll() is not None or "KUBE-POD-FW-" in _rules())
        assert running.poll() is None, log_path.read_text()[-3000:]
        yield
        assert running.poll() is None, log_path.read_text()[-3000:]
    finally:
        running.terminate()
        running.wait(_STOP_S)
    assert "KUBE-POD-FW-" not in _rules()


def _rules() -> str:
    return subprocess.run(["iptables-save", "-t", "filter"], capture_output=True, text=True, check=True).stdout

"""Flags of the control plane's programs."""

from __future__ import annotations

import dataclasses
import pathlib

from penstock.runtime import processes
from tests.support import certificates

ADMIN = "admin"
LOOPBACK = "127.0.0.1"
PROXY_CLIENT = "front-proxy-client"
SERVICE_RANGE = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
# Addresses in the network namespace of real nodes. The gateway is where the API server and DNS are.
NODE_GATEWAY = "10.99.0.254"
MAX_NODES = 3


def node_name(number: int) -> str:
    """Nodes count from 1."""
    return f"node-{number}"


def node_address(number: int) -> str:
    """Where a node's kubelet listens."""
    return f"10.99.0.{number}"


def pod_range(number: int) -> str:
    """Addresses of the Pods on a node."""
    return f"10.244.{number}.0/24"


def bridge(number: int) -> str:
    """Network device that a node's Pods are connected to."""
    return f"pods{number}"


# Whose kubeconfig a program gets: name -> (user, group).
USERS = {
    ADMIN: ("tests", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kube-proxy": ("system:kube-proxy", ""),
    "kwok": ("kwok", "system:masters"),
    "coredns": ("coredns", "system:masters"),
} | {node_name(number): (f"system:node:{node_name(number)}", "system:nodes") for number in range(1, MAX_NODES + 1)}
SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    SERVICE_ADDRESS,
    NODE_GATEWAY,
)


@dataclasses.dataclass(frozen=True)
class Files:
    """What the programs are given."""

    folder: pathlib.Path
    address: str
    port: int
    authority: pathlib.Path
    serving: certificates.Files
    accounts: certificates.Files
    kubelet_client: certificates.Files
    proxy_client: certificates.Files
    tokens: pathlib.Path


def kubeconfig(folder: pathlib.Path, user: str) -> pathlib.Path:
    """One user's."""
    return folder / ("kubeconfig" if user == ADMIN else f"{user}.kubeconfig")


def etcd(data: pathlib.Path, client: int, peer: int) -> list[str]:
    """One member that does not wait for the disk."""
    here, other = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    return [
        f"--data-dir={data}",
        f"--listen-client-urls={here}",
        f"--advertise-client-urls={here}",
        f"--listen-peer-urls={other}",
        f"--initial-advertise-peer-urls={other}",
        f"--initial-cluster=default={other}",
        "--unsafe-no-fsync",
        f"--quota-backend-bytes={4 << 30}",
        "--log-level=warn",
    ]


def server(files: Files, etcd_port: int, with_controllers: bool) -> list[str]:
    """The API server."""
    flags = [
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--bind-address={files.address}",
        f"--advertise-address={files.address}",
        f"--secure-port={files.port}",
        f"--tls-cert-file={files.serving.cert}",
        f"--tls-private-key-file={files.serving.key}",
        f"--client-ca-file={files.authority}",
        f"--token-auth-file={files.tokens}",
        f"--service-account-key-file={files.accounts.cert}",
        f"--service-account-signing-key-file={files.accounts.key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--kubelet-client-certificate={files.kubelet_client.cert}",
        f"--kubelet-client-key={files.kubelet_client.key}",
        # Nobody resolves the names of nodes.
        "--kubelet-preferred-address-types=InternalIP",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged",
    ]
    if files.address == LOOPBACK:
        # The `kubernetes` Endpoints cannot hold a loopback address.
        flags.append("--endpoint-reconciler-type=none")
    if with_controllers:
        return [*flags, *_aggregation(files), "--enable-admission-plugins=NodeRestriction"]
    # Without a controller-manager nobody makes the ServiceAccount that this would ask every Pod for.
    return [*flags, "--disable-admission-plugins=ServiceAccount"]


def _aggregation(files: Files) -> list[str]:
    """How it calls API servers behind it, such as that of resource metrics, in its clients' names."""
    return [
        f"--requestheader-client-ca-file={files.authority}",
        f"--requestheader-allowed-names={PROXY_CLIENT}",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={files.proxy_client.cert}",
        f"--proxy-client-key-file={files.proxy_client.key}",
    ]


def _client(files: Files, user: str) -> list[str]:
    config = kubeconfig(files.folder, user)
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        f"--secure-port={processes.free_port()}",
        f"--cert-dir={files.folder / user}",
        "--leader-elect=false",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]


def controller_manager(files: Files) -> list[str]:
    """The controllers that Kubernetes itself has."""
    return [
        *_client(files, "kube-controller-manager"),
        f"--service-account-private-key-file={files.accounts.key}",
        f"--root-ca-file={files.authority}",
        "--use-service-account-credentials",
        "--allocate-node-cidrs=false",
        "--horizontal-pod-autoscaler-sync-period=2s",
    ]


def scheduler(files: Files) -> list[str]:
    """The scheduler."""
    return _client(files, "kube-scheduler")


def kwok(files: Files, stages: pathlib.Path) -> list[str]:
    """Nodes and Pods that are played. It listens nowhere."""
    return [
        f"--kubeconfig={kubeconfig(files.folder, 'kwok')}",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        "--node-ip=127.0.0.1",
        "--node-lease-duration-seconds=40",
        "--cidr=10.200.0.0/16",
        *(f"--config={path}" for path in sorted(stages.iterdir())),
    ]

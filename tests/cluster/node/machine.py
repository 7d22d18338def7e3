"""The machine that nodes run on: whether it allows them, and that it stays as it was."""

from __future__ import annotations

import ctypes
import os
import pathlib
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping

# Debian's names.
PACKAGES = ("containerd", "runc", "containernetworking-plugins", "iptables", "ipset", "conntrack")
_PROGRAMS = ("containerd", "ctr", "runc", "iptables", "ipset", "ip", "unshare", "mount")
CNI = pathlib.Path("/usr/lib/cni")
CGROUPS = pathlib.Path("/sys/fs/cgroup")
# What kubelet wants to see; where something else stands it would change the whole machine.
KUBELET_WANTS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
SETTINGS = pathlib.Path("/proc/sys")
_CLONE_NEWNET = 0x40000000
_EMPTY_DEADLINE_S = 10.0


def why_not() -> str:
    """Why no node can run here; empty where one can."""
    if platform.system() != "Linux":
        return "a real node needs Linux"
    if os.geteuid() != 0:
        return "a real node needs root"
    if missing():
        return f"there is no {', '.join(missing())}: `make cluster-node` installs {' '.join(PACKAGES)}"
    probe = "mount -t tmpfs none /mnt && ip link add probe0 type bridge && iptables -t nat -L -n"
    tried = subprocess.run(_unshared(["sh", "-c", probe]), capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"namespaces of one's own are not allowed here: {tried.stderr.strip()[-300:]}"
    try:
        for folder in cgroup_folders("penstock-probe"):
            folder.mkdir()
            folder.rmdir()
    except OSError as exc:
        return f"control groups cannot be made here: {exc}"
    return ""


def missing() -> list[str]:
    """What is not installed of what nodes need."""
    return [name for name in _PROGRAMS if shutil.which(name) is None] + ([] if CNI.is_dir() else [str(CNI)])


def _unshared(command: list[str]) -> list[str]:
    return ["unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc", "--kill-child", *command]


def cgroup_folders(name: str) -> Iterator[pathlib.Path]:
    """A group's folder in each hierarchy that is mounted."""
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind in {"cgroup", "cgroup2"} and options.startswith("rw"):
            yield pathlib.Path(where) / name


def remove_cgroups(name: str) -> None:
    """Removes a group that no process is in any more, with all below it. Raises OSError where it stays busy."""
    deadline_s = time.monotonic() + _EMPTY_DEADLINE_S
    for folder in cgroup_folders(name):
        for where, _, _ in sorted(os.walk(folder), reverse=True):
            while True:
                try:
                    pathlib.Path(where).rmdir()
                    break
                except OSError:
                    # The kernel lets go of a group a little after its last process.
                    if time.monotonic() > deadline_s:
                        raise
                    time.sleep(0.05)


def settings() -> Mapping[str, str]:
    """What kubelet could change, as it is now."""
    return {name: (SETTINGS / name).read_text().strip() for name in KUBELET_WANTS if (SETTINGS / name).exists()}


def put_back(before: Mapping[str, str]) -> None:
    """Puts settings back that are not what they were."""
    for name, value in settings().items():
        if value != before[name]:
            (SETTINGS / name).write_text(before[name])


def enter_network(path: str) -> None:
    """Moves the calling thread, and what it starts from now on, into a network namespace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"{path}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(handle)

"""`python -m tests.cluster build|install|up|node`."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

from tests.cluster import binaries, control_plane
from tests.cluster.node import image, machine, session


def _say(text: str) -> None:
    print(f"cluster: {text}", flush=True)


def _up(programs: binaries.Binaries) -> None:
    """Runs a control plane until it is told to stop."""
    extras = control_plane.Extras(controllers=True, fake_nodes=True)
    with tempfile.TemporaryDirectory(prefix="penstock-cluster-") as folder:
        plane = control_plane.ControlPlane(programs, pathlib.Path(folder), extras)
        try:
            plane.start()
            _say(f"ready after {plane.times_s['ready']:.1f} s; export KUBECONFIG={plane.kubeconfig}")
            signal.pause()
        finally:
            plane.stop()


def _node(programs: binaries.Binaries) -> None:
    """Runs two real nodes, and a shell in their network."""
    cluster = session.RealCluster(nodes=2)
    try:
        cluster.start(programs, image.project_images(cluster.folder / "images", _say))
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in cluster.times_s.items())
        _say(f"{times}; image {image.PENSTOCK}; end this shell to stop")
        env = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
        env["PATH"] = f"{programs.folder}{os.pathsep}{env['PATH']}"
        with cluster.entered():
            subprocess.run([os.environ.get("SHELL", "/bin/sh")], env=env, check=False)
    finally:
        cluster.stop()


def _install() -> int:
    """Debian's packages that real nodes need, where they are missing and this may install them."""
    if not machine.missing():
        _say("containerd and what belongs to it is there")
        return 0
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        _say(f"install {' '.join(machine.PACKAGES)} (Debian's names), as root")
        return 1
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *machine.PACKAGES]):
        if subprocess.run(["apt-get", *command], env=env, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            _say(f"`apt-get {' '.join(command)}` failed")
            return 1
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Entry point: 0 where it was done, 1 with the reason where something cannot be had."""
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what not in {"build", "install", "up", "node"}:
        print("usage: python -m tests.cluster build|install|up|node", file=sys.stderr)
        return 2
    if what == "install":
        return _install() or _allowed()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        programs = binaries.get(os.environ, _say)
        _say(f"etcd and kube-apiserver are in {programs.folder} ({programs.origin})")
        if what == "up":
            _up(programs)
        if what == "node":
            if _allowed() != 0:
                return 1
            _node(programs)
    except (binaries.Unavailable, session.NotStarted) as exc:
        _say(str(exc))
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _allowed() -> int:
    reason = machine.why_not()
    if reason:
        _say(reason)
    return 1 if reason else 0


if __name__ == "__main__":
    raise SystemExit(main())

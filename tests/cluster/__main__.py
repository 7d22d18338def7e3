"""`python -m tests.cluster build|up`."""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import tempfile

from tests.cluster import binaries, control_plane


def _say(text: str) -> None:
    print(f"cluster: {text}", flush=True)


def _up(programs: binaries.Binaries) -> None:
    """Runs a control plane until it is told to stop."""
    with tempfile.TemporaryDirectory(prefix="penstock-cluster-") as folder:
        plane = control_plane.ControlPlane(programs, pathlib.Path(folder))
        plane.start()
        try:
            _say(f"ready after {plane.times_s['ready']:.1f} s; export KUBECONFIG={plane.kubeconfig}")
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            plane.stop()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Entry point: 0 where it was done, 1 with the reason where the programs cannot be had."""
    if sys.argv[1:] not in (["build"], ["up"]):
        print("usage: python -m tests.cluster build|up", file=sys.stderr)
        return 2
    if sys.argv[1] == "up":
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        programs = binaries.get(os.environ, _say)
    except binaries.Unavailable as exc:
        _say(str(exc))
        return 1
    _say(f"etcd and kube-apiserver are in {programs.folder} ({programs.origin})")
    if sys.argv[1] == "up":
        _up(programs)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Real operator processes beside a real Redis, for tests on a real API server."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from penstock.runtime import processes
from tests.cluster import api

_DEADLINE_S = 30.0


def until(check: Callable[[], object], deadline_s: float = _DEADLINE_S, what: str = "") -> float:
    """Waits until `check` is true; after how many seconds it was."""
    began_s = time.monotonic()
    while not check():
        assert time.monotonic() - began_s < deadline_s, f"not within {deadline_s} s: {what or check}"
        time.sleep(0.05)
    return time.monotonic() - began_s


class OperatorProcess:
    """`python -m operators`, with its metrics."""

    def __init__(self, folder: pathlib.Path, access: api.Access, redis_url: str, name: str, **environment: str) -> None:
        self._folder, self.name = folder / name, name
        self._folder.mkdir()
        config = self._folder / "kubeconfig"
        config.touch(mode=0o600)
        config.write_text(access.kubeconfig())
        self._address = self._folder / "metrics"
        self._environment = {
            **os.environ,
            "PENSTOCK_OPERATOR_ID": name,
            "PENSTOCK_OPERATOR_REDIS_URL": redis_url,
            "PENSTOCK_OPERATOR_WORKER_IMAGE": "penstock:test",
            "PENSTOCK_OPERATOR_KUBECONFIG": str(config),
            "PENSTOCK_OPERATOR_METRICS_PORT": "0",
            "PENSTOCK_OPERATOR_METRICS_ADDRESS_FILE": str(self._address),
            **{f"PENSTOCK_OPERATOR_{key}": value for key, value in environment.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None
        # How often it was started.
        self.starts = 0

    def start(self) -> None:
        """Returns at once."""
        self.starts += 1
        self._address.unlink(missing_ok=True)
        with open(self._folder / "log", "ab") as log:
            argv = processes.die_with_parent([sys.executable, "-m", "operators"])
            self._process = subprocess.Popen(argv, env=self._environment, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """All it has said."""
        return (self._folder / "log").read_text(errors="replace")

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text of a path of its metrics port; 0 where it does not listen."""
        try:
            with urllib.request.urlopen(f"http://{self._address.read_text()}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()
        except OSError:
            return 0, ""

    def metric(self, sample: str) -> float:
        """A sample by its whole name; 0 where it is not there."""
        for line in self.ask("/metrics")[1].splitlines():
            if line.startswith(f"{sample} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def total(self, prefix: str) -> float:
        """The sum of all samples that begin so."""
        lines = self.ask("/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(prefix))

    @property
    def leads(self) -> bool:
        """Whether it says that it leads."""
        return self.metric("penstock_operator_leading") == 1

    def kill(self) -> None:
        """At once, as by a lost node."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """As Kubernetes stops it; its exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(30)

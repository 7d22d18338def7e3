"""etcd and the API server as child processes, on 127.0.0.1 only, with nothing on disk that outlives them."""

from __future__ import annotations

import pathlib
import secrets
import subprocess
import time
from typing import IO

import httpx

from penstock.runtime import processes
from tests.cluster import api, binaries
from tests.support import certificates

_READY_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 20.0
_ATTEMPTS = 3


class ControlPlane:
    """A control plane of one's own. `times_s` says after how long each step was done."""

    def __init__(self, programs: binaries.Binaries, folder: pathlib.Path) -> None:
        """`folder` is empty; keys, data and logs go there."""
        self._programs = programs
        self._folder = folder
        self._running: list[tuple[str, subprocess.Popen[bytes], IO[bytes]]] = []
        self.times_s: dict[str, float] = {}
        self.access: api.Access

    def start(self) -> None:
        """Returns when the API server is ready. Raises AssertionError with the end of its log where it does not come."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._start_once()
                return
            except AssertionError:
                # A port that was free may be taken by now.
                self.stop()
                if attempt == _ATTEMPTS:
                    raise

    def _start_once(self) -> None:
        began_s = time.monotonic()
        client, peer, port = (processes.free_port() for _ in range(3))
        authority = certificates.Authority(self._folder, "cluster CA")
        token = secrets.token_urlsafe(24)
        tokens = self._folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{token},tests,tests,"system:masters"\n')
        self.access = api.Access(f"https://127.0.0.1:{port}", authority.file.read_text(), token)
        (self._folder / "kubeconfig").write_text(self.access.kubeconfig())
        self.times_s["certificates"] = time.monotonic() - began_s
        self._run("etcd", self._etcd_flags(client, peer))
        serving, accounts = authority.issue("kube-apiserver"), authority.issue("service-accounts")
        self._run("kube-apiserver", self._server_flags(client, port, serving, accounts, tokens))
        self._until_ready()
        self.times_s["ready"] = time.monotonic() - began_s

    @property
    def kubeconfig(self) -> pathlib.Path:
        """For kubectl."""
        return self._folder / "kubeconfig"

    def stop(self) -> None:
        """The API server first: without its etcd it would hang and keep its port."""
        while self._running:
            _, process, log = self._running.pop()
            process.terminate()
            try:
                process.wait(_STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()

    def _run(self, name: str, flags: list[str]) -> None:
        argv = processes.die_with_parent([str(self._programs.path(name)), *flags])
        log = open(self._folder / f"{name}.log", "ab")  # noqa: SIM115  closed with the process
        self._running.append((name, subprocess.Popen(argv, stdout=log, stderr=log), log))

    def _until_ready(self) -> None:
        """Ready, and with the namespace that everything starts from."""
        headers = {"Authorization": f"Bearer {self.access.token}"}
        deadline_s = time.monotonic() + _READY_DEADLINE_S
        with httpx.Client(
            base_url=self.access.server, verify=self.access.ssl_context(), headers=headers, trust_env=False
        ) as http:
            while True:
                for name, process, _ in self._running:
                    assert process.poll() is None, f"{name} ended:\n{self._log_tail(name)}"
                try:
                    if all(http.get(path).is_success for path in ("/readyz", "/api/v1/namespaces/default")):
                        return
                except httpx.TransportError:
                    pass
                late = time.monotonic() > deadline_s
                assert not late, f"not ready in {_READY_DEADLINE_S} s:\n{self._log_tail('kube-apiserver')}"
                time.sleep(0.05)

    def _log_tail(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def _etcd_flags(self, client: int, peer: int) -> list[str]:
        here, other = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        return [
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={here}",
            f"--advertise-client-urls={here}",
            f"--listen-peer-urls={other}",
            f"--initial-advertise-peer-urls={other}",
            f"--initial-cluster=default={other}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _server_flags(
        self,
        etcd: int,
        port: int,
        serving: certificates.Files,
        accounts: certificates.Files,
        tokens: pathlib.Path,
    ) -> list[str]:
        return [
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            # The `kubernetes` Endpoints cannot hold a loopback address.
            "--endpoint-reconciler-type=none",
            f"--tls-cert-file={serving.cert}",
            f"--tls-private-key-file={serving.key}",
            f"--token-auth-file={tokens}",
            f"--service-account-key-file={accounts.cert}",
            f"--service-account-signing-key-file={accounts.key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            # Without a controller-manager nobody makes the ServiceAccount that this would ask every Pod for.
            "--disable-admission-plugins=ServiceAccount",
        ]

"""A control plane as child processes, on 127.0.0.1 only, with nothing on disk that outlives them."""

from __future__ import annotations

import dataclasses
import pathlib
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from typing import IO

import httpx

from penstock.runtime import processes
from tests.cluster import api, binaries, flags
from tests.support import certificates

_READY_DEADLINE_S = 60.0
# An API server with clients that watch takes its time; nothing is lost where it is killed.
_STOP_DEADLINE_S = 5.0
_ATTEMPTS = 3


@dataclasses.dataclass(frozen=True)
class Extras:
    """What runs beside etcd and the API server."""

    # Controller-manager and scheduler: Deployments, ServiceAccounts, garbage collection, Pods that find a node.
    controllers: bool = False
    # kwok: nodes with its annotation are ready, and Pods on them run at once, whatever their image.
    fake_nodes: bool = False
    # More flags of the API server.
    server: tuple[str, ...] = ()
    # Where the API server listens: elsewhere than on 127.0.0.1 only in a network namespace of its own.
    address: str = flags.LOOPBACK


@dataclasses.dataclass
class _Program:
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    argv: list[str]


class ControlPlane:
    """A control plane of one's own. `times_s` says after how long each step was done."""

    def __init__(self, programs: binaries.Binaries, folder: pathlib.Path, extras: Extras | None = None) -> None:
        """`folder` is empty; keys, data and logs go there. Raises `Unavailable` where a program is missing."""
        self._programs = programs
        self._folder = folder
        self._extras = extras or Extras()
        self._running: dict[str, _Program] = {}
        self._etcd_port = 0
        self.times_s: dict[str, float] = {}
        self.access: api.Access
        self.authority: certificates.Authority
        programs.need(*binaries.NAMES)
        if self._extras.controllers:
            programs.need("kube-controller-manager", "kube-scheduler")
        if self._extras.fake_nodes:
            programs.need("kwok", "kwok-stages")

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
        files = self._files()
        self.times_s["certificates"] = time.monotonic() - began_s
        client, peer = processes.free_port(), processes.free_port()
        self._etcd_port = client
        self._run("etcd", flags.etcd(self._folder / "etcd", client, peer))
        self._run("kube-apiserver", [*flags.server(files, client, self._extras.controllers), *self._extras.server])
        self._until("kube-apiserver", self._is_ready)
        self.times_s["ready"] = time.monotonic() - began_s
        if self._extras.controllers:
            self._run("kube-controller-manager", flags.controller_manager(files))
            self._run("kube-scheduler", flags.scheduler(files))
            self._until("kube-controller-manager", self._has_accounts)
            self.times_s["controllers"] = time.monotonic() - began_s
        if self._extras.fake_nodes:
            self._run("kwok", flags.kwok(files, self._programs.path("kwok-stages")))

    def _files(self) -> flags.Files:
        """Keys, tokens and kubeconfigs: one for each program, with the rights of its user and no more."""
        self.authority = certificates.Authority(self._folder, "cluster CA")
        port = processes.free_port()
        tokens = self._folder / "tokens.csv"
        tokens.touch(mode=0o600)
        lines = []
        for name, (user, group) in flags.USERS.items():
            token = secrets.token_urlsafe(24)
            lines.append(f'{token},{user},{user},"{group}"')
            access = api.Access(f"https://{self._extras.address}:{port}", self.authority.file.read_text(), token)
            self.kubeconfig_of(name).touch(mode=0o600)
            self.kubeconfig_of(name).write_text(access.kubeconfig())
            if name == flags.ADMIN:
                self.access = access
        tokens.write_text("\n".join(lines))
        return flags.Files(
            folder=self._folder,
            address=self._extras.address,
            port=port,
            authority=self.authority.file,
            serving=self.authority.issue("kube-apiserver", *flags.SERVER_NAMES),
            accounts=self.authority.issue("service-accounts"),
            kubelet_client=self.authority.issue("kube-apiserver-kubelet-client", organization="system:masters"),
            proxy_client=self.authority.issue(flags.PROXY_CLIENT),
            tokens=tokens,
        )

    def kubeconfig_of(self, name: str) -> pathlib.Path:
        """One of `flags.USERS`."""
        return flags.kubeconfig(self._folder, name)

    @property
    def kubeconfig(self) -> pathlib.Path:
        """For kubectl, with all rights."""
        return self.kubeconfig_of(flags.ADMIN)

    def stop(self) -> None:
        """The API server before etcd: without its etcd it would hang and keep its port."""
        for name in reversed(list(self._running)):
            self.stop_one(name)
            self._running.pop(name).log.close()

    def stop_one(self, name: str) -> None:
        """Ends one program; `start_one` starts it again with the same data on the same port."""
        process = self._running[name].process
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def crash(self, name: str) -> None:
        """Ends one program at once, without a word to its clients; `start_one` starts it again."""
        self._running[name].process.kill()
        self._running[name].process.wait()

    def start_one(self, name: str) -> None:
        """Starts a program again that was stopped; returns when the API server is ready."""
        self.respawn(name)
        self.until_ready(name)

    def respawn(self, name: str) -> None:
        """The first half of `start_one`, for a thread that lives as long as the program shall: it ends with the thread."""
        program = self._running[name]
        program.process = subprocess.Popen(program.argv, stdout=program.log, stderr=program.log)

    def until_ready(self, name: str) -> None:
        """The second half."""
        self._until(name, self._is_ready)

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a program: SIGSTOP makes it hang, SIGCONT lets it go on."""
        self._running[name].process.send_signal(number)

    def mend(self) -> None:
        """Lets go on what hangs and starts what was stopped."""
        for name, program in self._running.items():
            if program.process.poll() is None:
                program.process.send_signal(signal.SIGCONT)
            else:
                self.start_one(name)

    def compact(self) -> None:
        """Makes etcd forget all history before now, as the API server itself does every five minutes."""
        url = f"http://127.0.0.1:{self._etcd_port}/v3/kv"
        header = httpx.post(f"{url}/range", json={"key": "AA=="}, trust_env=False).json()["header"]
        done = httpx.post(f"{url}/compaction", json={"revision": header["revision"], "physical": True}, trust_env=False)
        assert done.is_success, done.text

    def pid(self, name: str) -> int:
        """Process id of a program."""
        return self._running[name].process.pid

    def _run(self, name: str, arguments: list[str]) -> None:
        argv = processes.die_with_parent([str(self._programs.path(name)), *arguments])
        log = open(self._folder / f"{name}.log", "ab")  # noqa: SIM115  closed with the process
        self._running[name] = _Program(subprocess.Popen(argv, stdout=log, stderr=log), log, argv)

    def _until(self, name: str, done: Callable[[httpx.Client], bool]) -> None:
        headers = {"Authorization": f"Bearer {self.access.token}"}
        deadline_s = time.monotonic() + _READY_DEADLINE_S
        with httpx.Client(
            base_url=self.access.server, verify=self.access.ssl_context(), headers=headers, trust_env=False
        ) as http:
            while True:
                for each, program in self._running.items():
                    assert program.process.poll() is None, f"{each} ended:\n{self.log_tail(each)}"
                try:
                    if done(http):
                        return
                except httpx.TransportError:
                    pass
                late = time.monotonic() > deadline_s
                assert not late, f"not ready in {_READY_DEADLINE_S} s:\n{self.log_tail(name)}"
                time.sleep(0.05)

    def _is_ready(self, http: httpx.Client) -> bool:
        """Ready, and with the namespace that everything starts from."""
        return all(http.get(path).is_success for path in ("/readyz", "/api/v1/namespaces/default"))

    def _has_accounts(self, http: httpx.Client) -> bool:
        """Pods can be made: the ServiceAccount that they get is there."""
        return http.get("/api/v1/namespaces/default/serviceaccounts/default").is_success

    def log_tail(self, name: str) -> str:
        """The end of what a program wrote."""
        return (self._folder / f"{name}.log").read_text(errors="replace")[-3000:]

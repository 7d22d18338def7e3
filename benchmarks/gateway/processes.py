"""The processes of a run: mock engines, proxies and the load generator, all on loopback, all ended with the run."""

import contextlib
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import orjson

from benchmarks.gateway import cpu, engines
from controller.replay import target

ROOT = pathlib.Path(__file__).parents[2]
START_S = 90.0
_BODY = orjson.dumps({"model": engines.MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1})


class BenchError(Exception):
    """The run cannot go on; the message says what failed."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


@contextlib.contextmanager
def _running(command: Sequence[str], log: IO[bytes], **given: Any) -> Iterator["subprocess.Popen[bytes]"]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=log, start_new_session=True, **given)
    try:
        yield process
    finally:
        _end_group(process)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End the process and all of its group, which is its own session."""
    for number, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@contextlib.contextmanager
def mock_engines(addresses: Sequence[str], log: IO[bytes]) -> Iterator[None]:
    """One process that serves all `addresses` (host:port)."""
    command = [sys.executable, "-m", "benchmarks.gateway.engines", *addresses]
    with _running(command, log, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise BenchError("the mock engines did not start")
        yield


class Load:
    """The load generator."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._salt = 0

    def run(self, url: str, kind: str, size_bytes: int, requests: int, at_once: int) -> dict[str, float]:
        """Send one order and wait for its result. Raises `BenchError` when any request failed."""
        self._salt += 1
        order = {"url": url, "kind": kind, "size_bytes": size_bytes, "requests": requests, "at_once": at_once}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(orjson.dumps({**order, "salt": self._salt}) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the load generator ended")
        result: dict[str, float] = orjson.loads(line)
        if result["errors"]:
            raise BenchError(f"{result['errors']} of {requests} {kind} requests to {url} failed")
        return result


@contextlib.contextmanager
def load_generator(log: IO[bytes]) -> Iterator[Load]:
    """The load generator's process."""
    command = [sys.executable, "-m", "benchmarks.gateway.load"]
    with _running(command, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Load(process)


class Proxy:
    """A running proxy: its URL, and its CPU time so far."""

    def __init__(self, name: str, url: str, pid: int) -> None:
        self.name = name
        self.url = url
        self._pid = pid

    def cpu_s(self) -> float:
        """CPU time used since its start, with everything that it started."""
        return cpu.used_s(self._pid)


@contextlib.contextmanager
def proxy(name: str, template: str, addresses: Sequence[str], log: IO[bytes]) -> Iterator[Proxy]:
    """A proxy started from a command line, in front of `addresses`, once it answers a request.

    In the template, {port} and {port2} are free ports, {urls} all endpoints, {flags} each as `--endpoint URL`.
    """
    port, port2 = free_ports(2)
    urls = [f"http://{each}" for each in addresses]
    words: Mapping[str, object] = {
        "python": sys.executable,
        "port": port,
        "port2": port2,
        "urls": " ".join(urls),
        "flags": " ".join(f"--endpoint {url}" for url in urls),
    }
    try:
        command = shlex.split(template.format_map(words))
    except (KeyError, ValueError) as exc:
        raise BenchError(f"command of {name}: {exc}; known are {', '.join(words)}") from exc
    if not command:
        raise BenchError(f"command of {name} is empty")
    try:
        with _running(command, log, stdout=log) as process:
            _wait(name, port, process)
            yield Proxy(name, f"http://127.0.0.1:{port}", process.pid)
    except FileNotFoundError as exc:
        raise BenchError(f"{name} cannot be started: {exc}") from exc


def _wait(name: str, port: int, process: "subprocess.Popen[bytes]") -> None:
    """Until the proxy answers a request with 200. Raises `BenchError`."""
    to = target.parse(f"http://127.0.0.1:{port}")
    head = to.head("POST", "/v1/chat/completions", {"Content-Type": "application/json", "Connection": "close"})
    asked = head + b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY
    until_s = time.monotonic() + START_S
    seen = b"nothing"
    while time.monotonic() < until_s:
        if process.poll() is not None:
            raise BenchError(f"{name} ended with status {process.returncode} before it served")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as sock:
            sock.settimeout(5)
            sock.sendall(asked)
            seen = sock.recv(4096)
            if seen.startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.1)
    raise BenchError(f"{name} did not serve within {START_S:g} s; last: {seen[:60]!r}")

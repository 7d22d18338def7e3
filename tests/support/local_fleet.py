"""A local fleet as a user starts it: `penstock up` as a child process."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import psutil

from penstock.runtime import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]
PENSTOCK = [sys.executable, "-m", "controller.cli.main"]


class LocalFleet:
    """`penstock up` with its output in a file and its own folder for temporary files."""

    def __init__(self, folder: pathlib.Path, *args: str) -> None:
        self.port = processes.free_port()
        self.temp = pathlib.Path(folder)
        self.log = self.temp / f"up-{self.port}.log"
        self.env = {**os.environ, "TMPDIR": str(self.temp), "HOME": str(self.temp)}
        self._args = args
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the command."""
        argv = [*PENSTOCK, "up", "--port", str(self.port), *self._args]
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(argv, cwd=ROOT, env=self.env, stdout=out, stderr=subprocess.STDOUT)

    async def ready(self, deadline_s: float = 180.0) -> None:
        """Waits until it says that it is ready."""
        await self.until(lambda: " s  ready\n" in self.log.read_text(), deadline_s)

    async def until(self, check: Callable[[], object], deadline_s: float = 60.0) -> None:
        """Waits until `check` is true; fails with the command's output, or where the command ended."""
        assert self.process is not None
        try:
            async with asyncio.timeout(deadline_s):
                while not check():
                    assert self.process.poll() is None, f"penstock up ended:\n{self.log.read_text()}"
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"not within {deadline_s} s; penstock up said:\n{self.log.read_text()}") from None

    async def ended(self, status: int, deadline_s: float = 60.0) -> None:
        """Waits until the command ends by itself, with that status."""
        assert self.process is not None
        code = await asyncio.to_thread(self.process.wait, deadline_s)
        assert code == status, self.log.read_text()

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Runs another `penstock` command against the same folder."""
        return subprocess.run(
            [*PENSTOCK, *args], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=60, check=False
        )

    def status(self) -> dict[str, Any]:
        """`penstock status --json`; empty where the controller is not reached."""
        got = self.run("status", "--json", "--port", str(self.port))
        body: dict[str, Any] = json.loads(got.stdout) if got.returncode in (0, 1) and got.stdout else {}
        return body

    def workers(self) -> dict[str, int]:
        """Ready workers and their pids."""
        return {item["id"]: item["pid"] for item in self.status().get("workers", []) if item["state"] == "ready"}

    def descendants(self) -> list[psutil.Process]:
        """Every process of the fleet."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        """Signals the command and waits for its end."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)


def ask(port: int) -> int:
    """Status of one completion."""
    body = json.dumps({"model": "tiny", "prompt": "Hello", "max_tokens": 4}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        json.loads(answer.read())
        status: int = answer.status
    return status


def living(processes_: list[psutil.Process]) -> list[str]:
    """Those that still run (zombies do not)."""
    out = []
    for item in processes_:
        try:
            if item.is_running() and item.status() != psutil.STATUS_ZOMBIE:
                out.append(f"{item.pid} {item.name()}")
        except psutil.NoSuchProcess:
            continue
    return out

"""Child processes that end with their parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from penstock.runtime import errors

# A few milliseconds of a bare interpreter that asks the kernel (prctl PR_SET_PDEATHSIG, Linux) to end it with its
# parent and then becomes the program. Not `preexec_fn`: Python between fork and exec is unsafe beside threads.
# The kernel means the parent's thread: spawn from the main thread, or from one that lives as long as the child may.
_LAUNCHER = """
import ctypes, os, sys
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, int(sys.argv[1]), 0, 0, 0)
if os.getppid() != int(sys.argv[2]):
    os._exit(1)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def die_with_parent(argv: Sequence[str], number: int = signal.SIGKILL) -> list[str]:
    """The command line that runs `argv` so that signal `number` reaches it when this process ends."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(int(number)), str(os.getpid()), *argv]


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that is free now; another process may take it before the caller does."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


class Child:
    """A child process in a session of its own, so that Ctrl-C reaches it only through its parent, in order."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        log_path: pathlib.Path | None = None,
        cwd: pathlib.Path | None = None,
        death_signal: int = signal.SIGKILL,
    ) -> None:
        """`death_signal` is what the process gets when this one ends without having stopped it."""
        self.name = name
        self._argv = list(argv)
        self._env = dict(env) if env is not None else None
        self._log_path = log_path
        self._cwd = cwd
        self._death_signal = death_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, or None before the first start."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """None while the process runs or before it was started; negative for a signal."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Starts the process. Raises `StartError` where there is no such program."""
        if self.running:
            raise errors.StartError(f"{self.name} runs already, pid {self.pid}")
        if shutil.which(self._argv[0]) is None:
            raise errors.StartError(f"{self.name}: no such program: {self._argv[0]}")
        with contextlib.ExitStack() as stack:
            out: IO[bytes] | int = subprocess.DEVNULL
            if self._log_path is not None:
                out = stack.enter_context(open(self._log_path, "ab"))
            self._process = subprocess.Popen(
                die_with_parent(self._argv, self._death_signal),
                env=self._env,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        """Sends a signal; nothing where the process has ended."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    async def wait(self, timeout_s: float | None = None) -> int | None:
        """The exit code, or None where the process outlives `timeout_s`."""
        loop = asyncio.get_running_loop()
        deadline_s = None if timeout_s is None else loop.time() + timeout_s
        while self.running:
            if deadline_s is not None and loop.time() >= deadline_s:
                return None
            await asyncio.sleep(0.02)
        return self.exit_code

    async def stop(self, term_timeout_s: float = 5.0) -> int | None:
        """SIGTERM, then after `term_timeout_s` SIGKILL. Returns the exit code."""
        self.signal(signal.SIGTERM)
        if await self.wait(term_timeout_s) is None and self.running:
            self.signal(signal.SIGKILL)
            await self.wait(5.0)
        return self.exit_code

    def log_tail(self, limit_bytes: int = 2000) -> str:
        """The end of what the process wrote, for an error message."""
        if self._log_path is None or not self._log_path.exists():
            return ""
        with open(self._log_path, "rb") as handle:
            handle.seek(max(0, self._log_path.stat().st_size - limit_bytes))
            return handle.read().decode(errors="replace").strip()

"""An engine's program as a child that leads a process group of its own: it is ended with all that it has started."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import pathlib
import signal
from collections.abc import Mapping, Sequence
from typing import TextIO

from penstock.runtime import processes, tasks

_TAIL_LINES = 40
_LINE_BYTES = 2**20
_POLL_S = 0.05
_LAST_WORDS_S = 1.0
# An engine of many processes and much memory, killed, is gone within this; one that hangs in a driver perhaps never.
_GONE_S = 10.0


class Program:
    """Output is read all the time: its end is kept, and `echo` gets every line but those that contain a word of `hushed`."""

    def __init__(self, echo: TextIO | None = None, hushed: Sequence[str] = ()) -> None:
        self._echo, self._hushed = echo, hushed
        self._process: asyncio.subprocess.Process | None = None
        self._pump: asyncio.Task[None] | None = None
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)

    @property
    def pid(self) -> int | None:
        """Process id, once started."""
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """Exit status, or None while it runs (or has not been started)."""
        return self._process.returncode if self._process else None

    async def start(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Raises OSError where there is no such program. It gets SIGTERM, to end its own children, where this process ends."""
        self._process = await asyncio.create_subprocess_exec(
            *processes.die_with_parent(argv, signal.SIGTERM),
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=_LINE_BYTES,
        )
        self._pump = asyncio.create_task(self._read(self._process), name="program-output")

    async def wait(self) -> int | None:
        """The exit status, when it has ended; of what it has started some may go on."""
        # Not asyncio's own wait, which is for the end of the output too: that is whoever's last who inherited it.
        while self._process is not None and self._process.returncode is None:
            await asyncio.sleep(_POLL_S)
        return self.poll()

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, then after `grace_s` SIGKILL, to the whole process group, and waits for its end. Safe to call twice."""
        process = self._process
        if process is None:
            return
        if process.returncode is None and grace_s > 0:
            _signal_group(process.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wait(), grace_s)
        # The group may outlive its leader.
        _signal_group(process.pid, signal.SIGKILL)
        await self.wait()
        # What is killed lets go of its memory and its ports a moment later.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GONE_S):
                while await asyncio.to_thread(_any_left, process.pid):
                    await asyncio.sleep(_POLL_S)
        if self._pump is not None:
            # What has left the group may hold the output open for ever.
            await asyncio.wait({self._pump}, timeout=_LAST_WORDS_S)
            await tasks.cancel([self._pump])

    def last_lines(self) -> str:
        """The end of what it has written."""
        return "\n".join(self._tail)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                # A line above the limit is dropped: whatever happens, output is read, or the program would wait for it.
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            self._tail.append(text)
            if self._echo is not None and not any(word in text for word in self._hushed):
                with contextlib.suppress(OSError, ValueError):
                    print(text, file=self._echo, flush=True)


def _any_left(group: int) -> bool:
    """Whether a process of it still holds anything.

    A zombie whose threads have all ended does not, and nobody may be there to take its status.
    """
    if not _signal_group(group, 0):
        return False
    found = list(pathlib.Path("/proc").glob("[0-9]*/stat"))
    return not found or any(_is_left(path, group) for path in found)


def _is_left(path: pathlib.Path, group: int) -> bool:
    # Its command, in brackets, may hold anything; then state, parent, group and, 17th, threads (proc_pid_stat(5)).
    try:
        fields = path.read_text(errors="replace").rpartition(")")[2].split()
        return int(fields[2]) == group and (fields[0] not in "ZX" or int(fields[17]) > 1)
    except (OSError, ValueError, IndexError):
        return False


def _signal_group(group: int, number: int) -> bool:
    """Whether there was any process in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
        return True
    return False

"""A program as a child: its output is always read, and its end does not wait for what has left its group."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import psutil
import pytest

from workers import program

# Another session than the program's holds its output open.
_LEAVER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(600)
"""
# The parent of one of the group has left it, and never waits.
_ZOMBIE = """
import os, time
if not os.fork():
    if os.fork():
        os.setsid()
        print("parent", os.getpid(), flush=True)
    time.sleep(600)
time.sleep(600)
"""
_LOUD = """
import sys, time
for number in range(4):
    print("x" * 3_000_000)
print("done", flush=True)
time.sleep(600)
"""


async def words(made: program.Program, wanted: str) -> str:
    """What it has said, once it has said that."""
    async with asyncio.timeout(20):
        while wanted not in made.last_lines():
            await asyncio.sleep(0.02)
    return made.last_lines()


async def test_a_stop_ends_though_the_output_stays_open() -> None:
    """A process that has left the group goes on, and nobody waits for it."""
    made = program.Program()
    await made.start([sys.executable, "-c", _LEAVER], os.environ)
    left = int((await words(made, "child ")).split()[1])
    try:
        async with asyncio.timeout(10):
            await made.stop(5.0)
        assert made.poll() == -signal.SIGTERM and psutil.pid_exists(left)
    finally:
        os.kill(left, signal.SIGKILL)


async def test_a_stop_waits_for_no_zombie() -> None:
    """A member of the group whose parent never asks for its status is dead, and stays in the group: stop is quick all the same."""
    made = program.Program()
    await made.start([sys.executable, "-c", _ZOMBIE], os.environ)
    parent = int((await words(made, "parent ")).split()[1])
    try:
        async with asyncio.timeout(5):
            await made.stop(5.0)
        group = [each for each in psutil.process_iter() if _group(each.pid) == made.pid]
        assert [each.status() for each in group] == [psutil.STATUS_ZOMBIE]
    finally:
        os.kill(parent, signal.SIGKILL)


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


async def test_a_line_without_end_does_not_stop_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines above the limit are dropped; what comes after them is read, so that the program never waits for a reader."""
    made = program.Program(sys.stdout)
    await made.start([sys.executable, "-c", _LOUD], os.environ)
    try:
        await words(made, "done")
        assert "done" in capsys.readouterr().out
    finally:
        await made.stop(0.0)

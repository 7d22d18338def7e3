"""Keeps processors from sleeping while something is timed.

A processor that was idle for a tenth of a second is slower for a while: its clock has fallen, and a virtual one was taken off
its core. How slow depends on the host and on who else is there, so it is in no profile of an engine. What `cpupower idle-set`
does on a machine of one's own, a loop on each processor that runs only where nothing else would does anywhere, but for a
container that may use a share of its processors only: there the loops would use it up.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

from penstock.runtime import processes

# SCHED_IDLE gives way to everything of its own session; sessions share a processor by their autogroups' nice values.
_LOOP = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
try:
    with open("/proc/self/autogroup", "w") as file:
        file.write("19")
except OSError:
    pass
print("awake", flush=True)
while True:
    pass
"""
_QUOTA = pathlib.Path("/sys/fs/cgroup/cpu.max")


@contextlib.contextmanager
def processors() -> Iterator[str]:
    """All that this process may use stay awake until the end; gives why they do not, or nothing."""
    if _QUOTA.exists() and not _QUOTA.read_text().startswith("max"):
        yield f"this container may use a share of its processors only ({_QUOTA}): they sleep while nothing runs"
        return
    with contextlib.ExitStack() as running:
        ready = [running.enter_context(_loop(cpu)) for cpu in sorted(os.sched_getaffinity(0))]
        yield "" if all(ready) else "this system lets no process run only where nothing else would: processors sleep"


@contextlib.contextmanager
def _loop(cpu: int) -> Iterator[bool]:
    """Whether it runs."""
    argv = processes.die_with_parent([sys.executable, "-c", _LOOP, str(cpu)])
    with subprocess.Popen(argv, start_new_session=True, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline() == b"awake\n"
        finally:
            process.kill()

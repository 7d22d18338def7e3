"""Keeps processors from sleeping while something is timed.

A processor that was idle for a tenth of a second is slower for a while: its clock has fallen, and a virtual one was taken off
its core. How slow depends on the host and on who else is there, so it is in no profile of an engine. What `cpupower idle-set`
does on a machine of one's own, a loop on each processor that runs only where nothing else would does anywhere.
"""

from __future__ import annotations

import contextlib
import os
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
print(flush=True)
while True:
    pass
"""


@contextlib.contextmanager
def processors() -> Iterator[None]:
    """All that this process may use stay awake until the end."""
    loops = [
        subprocess.Popen(
            processes.die_with_parent([sys.executable, "-c", _LOOP, str(cpu)]),
            start_new_session=True,
            stdout=subprocess.PIPE,
        )
        for cpu in sorted(os.sched_getaffinity(0))
    ]
    try:
        for each in loops:
            assert each.stdout is not None
            each.stdout.readline()
        yield
    finally:
        for each in loops:
            each.kill()
            each.wait()
            assert each.stdout is not None
            each.stdout.close()

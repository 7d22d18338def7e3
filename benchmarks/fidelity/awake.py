"""Keeps processors from sleeping while something is timed.

A processor that sleeps takes its time to wake, a virtual one the longer the busier its host: how long is in no profile of an
engine. Linux lets a process say what it can bear (PM QoS, the kernel's Documentation/power/pm_qos_interface.rst): while
`/dev/cpu_dma_latency` is open with 0 us, idle processors poll.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import struct
from collections.abc import Iterator

DEVICE = pathlib.Path("/dev/cpu_dma_latency")


@contextlib.contextmanager
def processors(device: pathlib.Path = DEVICE) -> Iterator[str]:
    """All of the machine stay awake until the end; gives why they do not, or nothing."""
    with contextlib.ExitStack() as held:
        try:
            file = held.enter_context(os.fdopen(os.open(device, os.O_WRONLY), "wb", buffering=0))
            file.write(struct.pack("i", 0))
        except OSError as exc:
            yield f"processors sleep while nothing runs: {device}: {exc.strerror}"
            return
        yield ""

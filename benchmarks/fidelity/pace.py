"""How fast the machine is from moment to moment: the processor time of one small computation, again and again.

Who else is on the host shows in it: a virtual processor whose core is shared, or clocked down, takes longer for the same. Time
in which this thread waits for a processor does not count.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator

_INTERVAL_S = 0.25
_LOOPS = 20_000


class Pace:
    """Samples while it is held."""

    def __init__(self) -> None:
        # When, and how much processor time it took, ms.
        self._samples: list[tuple[float, float]] = []
        self._end = threading.Event()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Samples until the end; 1 % of a processor."""
        thread = threading.Thread(target=self._run, name="pace", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    @contextlib.contextmanager
    def of(self, into: list[float]) -> Iterator[None]:
        """Appends the median of what was sampled meanwhile, ms; nothing where nothing was."""
        began_s = time.monotonic()
        yield
        found = [took_ms for at_s, took_ms in self._samples if at_s >= began_s]
        if found:
            into.append(statistics.median(found))

    def _run(self) -> None:
        while not self._end.wait(_INTERVAL_S):
            at_s, began_s = time.monotonic(), time.thread_time()
            _compute()
            self._samples.append((at_s, (time.thread_time() - began_s) * 1000.0))


def _compute() -> int:
    total = 0
    for number in range(_LOOPS):
        total += number * number
    return total


def spread(paces: list[float]) -> float:
    """By how much the slowest is above the quickest; 0 for fewer than two."""
    return max(paces) / min(paces) - 1.0 if len(paces) > 1 else 0.0

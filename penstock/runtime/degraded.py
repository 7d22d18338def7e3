"""Which degraded modes of a process hold now: each has a name, a reason, a log line, a metric, a place in its status."""

from __future__ import annotations

from collections.abc import Collection

from penstock.runtime import clock as clocks
from penstock.runtime import logs


class Degraded:
    """Which modes hold now, since when and why; each change is logged once."""

    def __init__(self, clock: clocks.Clock, process: str, modes: Collection[str]) -> None:
        self._clock, self._modes = clock, modes
        self._log = logs.get(process)
        self._present: dict[str, tuple[float, str]] = {}

    def set(self, mode: str, reason: str) -> None:
        """The mode holds; a new reason replaces the old one."""
        if mode not in self._modes:
            raise ValueError(f"degraded mode {mode!r} is not one of {', '.join(self._modes)}")
        known = self._present.get(mode)
        if known is None:
            self._log.warning("degraded", mode=mode, reason=reason)
            self._present[mode] = (self._clock.now_s(), reason)
        elif known[1] != reason:
            self._present[mode] = (known[0], reason)

    def clear(self, mode: str) -> None:
        """The mode has ended."""
        known = self._present.pop(mode, None)
        if known is not None:
            self._log.info("recovered", mode=mode, after_s=round(self._clock.now_s() - known[0], 3))

    def modes(self) -> dict[str, str]:
        """Mode -> reason, of those that hold now."""
        return {mode: reason for mode, (_, reason) in self._present.items()}

    def lines(self, without: Collection[str] = ()) -> tuple[str, ...]:
        """`mode: reason`, as status shows it; of the modes in `without` none."""
        return tuple(f"{mode}: {reason}" for mode, reason in sorted(self.modes().items()) if mode not in without)

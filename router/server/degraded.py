"""The ways in which a gateway can be degraded: each has a name, a reason, a metric and a place in `penstock status`."""

from __future__ import annotations

from penstock.runtime import clock as clocks
from penstock.runtime import logs

REGISTRY_LOST = "registry-lost"
SHARING_LOST = "sharing-lost"
INDEX_GAP = "index-gap"
ENDPOINTS_EJECTED = "endpoints-ejected"
NO_ENDPOINT = "no-ready-endpoint"
POLICY_UNKNOWN = "policy-unknown"
SATURATED = "saturated"
MODES = (REGISTRY_LOST, SHARING_LOST, INDEX_GAP, ENDPOINTS_EJECTED, NO_ENDPOINT, POLICY_UNKNOWN, SATURATED)


class Degraded:
    """Which modes hold now, since when and why; each change is logged once."""

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._log = logs.get("gateway")
        self._present: dict[str, tuple[float, str]] = {}

    def set(self, mode: str, reason: str) -> None:
        """The mode holds; a new reason replaces the old one."""
        if mode not in MODES:
            raise ValueError(f"degraded mode {mode!r} is not one of {', '.join(MODES)}")
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

    def lines(self) -> tuple[str, ...]:
        """`mode: reason`, as status shows it."""
        return tuple(f"{mode}: {reason}" for mode, reason in sorted(self.modes().items()))

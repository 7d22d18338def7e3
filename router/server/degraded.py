"""The ways in which a gateway can be degraded: each has a name, a reason, a metric and a place in `penstock status`."""

from __future__ import annotations

from penstock.runtime import clock as clocks
from penstock.runtime import degraded

REGISTRY_LOST = "registry-lost"
SHARING_LOST = "sharing-lost"
INDEX_GAP = "index-gap"
ENDPOINTS_EJECTED = "endpoints-ejected"
NO_ENDPOINT = "no-ready-endpoint"
POLICY_UNKNOWN = "policy-unknown"
SATURATED = "saturated"
MODES = (REGISTRY_LOST, SHARING_LOST, INDEX_GAP, ENDPOINTS_EJECTED, NO_ENDPOINT, POLICY_UNKNOWN, SATURATED)


class Degraded(degraded.Degraded):
    """Those of a gateway."""

    def __init__(self, clock: clocks.Clock) -> None:
        super().__init__(clock, "gateway", MODES)

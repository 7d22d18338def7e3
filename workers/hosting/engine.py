"""The port behind which an engine runs, whichever it is."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from penstock.api import types


@dataclasses.dataclass(frozen=True)
class EngineInfo:
    """What a started engine says of itself. None is unknown."""

    host: str
    port: int
    engine: str
    version: str = ""
    simulated: bool = False
    capacity: types.Capacity = dataclasses.field(default_factory=types.Capacity)
    speed: types.EngineSpeed | None = None
    kv_events: str | None = None
    kv_replay: str | None = None
    pid: int | None = None


class Engine(Protocol):
    """One engine: started once, stopped once."""

    async def start(self) -> EngineInfo:
        """Returns when the engine answers. Raises where it cannot."""

    async def alive(self) -> bool:
        """Whether the engine still runs and answers."""

    async def ended(self) -> bool:
        """Whether it certainly serves nothing any more; one that is merely slow to answer has not ended."""

    async def load(self) -> int | None:
        """Requests running and waiting; None where the engine cannot be asked now."""

    async def stop(self, drain_s: float) -> None:
        """Ends the engine; what runs still gets up to `drain_s`."""

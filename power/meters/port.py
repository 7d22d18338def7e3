"""What a meter does, whatever it reads."""

from __future__ import annotations

from typing import Protocol

from penstock.runtime import errors
from power.policy import readings


class AbsentError(errors.PenstockError):
    """There is nothing of this kind on the node."""


class MeterError(errors.PenstockError):
    """It is there, and cannot be read now."""


class Meter(Protocol):
    """One kind of meter on a node. It may block, and is used by one thread at a time."""

    name: str

    def read(self) -> list[readings.Reading]:
        """A reading of each device. Raises `AbsentError` or `MeterError`, with the reason.

        A device that alone cannot be read has a reading with a `fault`.
        """

    def close(self) -> None:
        """Lets go of what it holds."""

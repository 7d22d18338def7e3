"""What a meter says of a device, and what the devices of a node come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

Kind = Literal["gpu", "cpu", "memory", "platform"]


@dataclasses.dataclass(frozen=True)
class Reading:
    """One look at one device. None is "not known", which is not zero.

    `joules` is the device's own counter: it grows, begins again at zero behind `wrap_j`, and may begin anew (a driver
    that was loaded again). `slowed_by` names what keeps the clocks below those that were asked for.
    """

    device: str
    kind: Kind
    name: str = ""
    watts: float | None = None
    joules: float | None = None
    wrap_j: float | None = None
    limit_w: float | None = None
    clock_mhz: float | None = None
    slowed_by: tuple[str, ...] | None = None
    # Why it could not be read; empty where it could.
    fault: str = ""


@dataclasses.dataclass(frozen=True)
class Sums:
    """Of a node. `gpus` is None where it is not known whether there are any; watts are None where a device's are."""

    gpus: int | None
    gpu_w: float | None
    # Packages and, where they are counted apart, their memory.
    cpu_w: float | None


def sums(readings: Iterable[Reading], *, gpus_known: bool) -> Sums:
    """What all devices draw together. `gpus_known`: the GPUs were looked for, and these are all that there are."""
    found = list(readings)
    gpus = [each for each in found if each.kind == "gpu"]
    cpus = [each for each in found if each.kind in ("cpu", "memory")]
    return Sums(len(gpus) if gpus_known else None, _total(gpus) if gpus_known else None, _total(cpus))


def _total(readings: list[Reading]) -> float | None:
    watts = [each.watts for each in readings if each.watts is not None]
    return sum(watts) if watts and len(watts) == len(readings) else None

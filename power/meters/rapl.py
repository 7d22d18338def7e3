"""CPUs and their memory, by the energy counters of Linux' powercap (RAPL of Intel and AMD).

Source: the kernel's Documentation/power/powercap/powercap.rst. A zone is a folder with `name`, `energy_uj` (readable by
root alone since CVE-2020-8694) and `max_energy_range_uj`; its parts are folders within it. Of `package-N` the part `dram` is
counted apart from the package, `core` and `uncore` are within it and are left out. `psys` is the whole platform, where there
is one. The control type `intel-rapl-mmio` shows the packages a second time.
"""

from __future__ import annotations

import pathlib

from power.meters import port
from power.policy import readings

_MICRO = 1e-6
_TYPE = "intel-rapl"


class Rapl:
    """See `port.Meter`."""

    name = "rapl"

    def __init__(self, sys_dir: pathlib.Path) -> None:
        """`sys_dir`: where the node's sysfs is; of it only `devices/virtual` is looked at."""
        self._root = sys_dir / "devices" / "virtual" / "powercap" / _TYPE

    def read(self) -> list[readings.Reading]:
        """See the port. Three small reads a zone."""
        found = []
        for zone in _zones(self._root):
            name = _text(zone / "name")
            # Where there are several sockets each may have one: `psys`, `psys-1`.
            if name == "psys" or name.startswith("psys-"):
                found.append(_reading(name, "platform", zone))
            elif name.startswith("package-"):
                found.append(_reading(name, "cpu", zone))
                memory = [part for part in _zones(zone) if _text(part / "name") == "dram"]
                found += [_reading(f"{name}/dram", "memory", part) for part in memory]
        if not found:
            raise port.AbsentError(f"{self._root} has no package: the CPU or its hypervisor shows no counter")
        return found

    def close(self) -> None:
        """It holds nothing."""


def _zones(folder: pathlib.Path) -> list[pathlib.Path]:
    """Zones, or the parts of one; nothing where they are gone. Raises `MeterError`."""
    try:
        return sorted(each for each in folder.iterdir() if each.name.startswith(f"{_TYPE}:"))
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise port.MeterError(f"{folder}: {exc.strerror}") from exc


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _reading(device: str, kind: readings.Kind, zone: pathlib.Path) -> readings.Reading:
    try:
        joules = int((zone / "energy_uj").read_text()) * _MICRO
        wrap_j = int((zone / "max_energy_range_uj").read_text()) * _MICRO
    except PermissionError:
        return readings.Reading(device, kind, fault=f"{zone / 'energy_uj'}: only root may read it")
    except (OSError, ValueError) as exc:
        return readings.Reading(device, kind, fault=f"{device}: {exc}")
    return readings.Reading(device, kind, joules=joules, wrap_j=wrap_j)

"""A sysfs with Linux' powercap in a folder."""

from __future__ import annotations

import pathlib

WRAP_UJ = 262_143_328_850


class Powercap:
    """Zones as Intel's and AMD's driver makes them."""

    def __init__(self, sys_dir: pathlib.Path) -> None:
        self.sys_dir = sys_dir
        self._root = sys_dir / "devices" / "virtual" / "powercap" / "intel-rapl"

    def zone(self, path: str, name: str, energy_uj: int = 0, wrap_uj: int = WRAP_UJ) -> pathlib.Path:
        """Makes one, such as `intel-rapl:0/intel-rapl:0:1`; its folder."""
        folder = self._root / path
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{wrap_uj}\n")
        self.counts(path, energy_uj)
        return folder

    def counts(self, path: str, energy_uj: int) -> None:
        """Sets a counter, whole as the kernel's are: no reader finds it half written."""
        file = self._root / path / "energy_uj"
        partial = file.with_name("partial")
        partial.write_text(f"{energy_uj}\n")
        partial.replace(file)

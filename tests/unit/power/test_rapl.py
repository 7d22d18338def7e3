"""The counters of CPUs, as Linux shows them."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from power.meters import port, rapl
from tests.support import powercap


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> Iterator[powercap.Powercap]:
    """Two packages with their parts, and the platform."""
    made = powercap.Powercap(tmp_path)
    made.zone("intel-rapl:0", "package-0", 5_000_000)
    made.zone("intel-rapl:0/intel-rapl:0:0", "core", 1)
    made.zone("intel-rapl:0/intel-rapl:0:1", "dram", 2_500_000, 65_712_999_613)
    made.zone("intel-rapl:1", "package-1", 7_000_000)
    made.zone("intel-rapl:2", "psys", 40_000_000)
    yield made


def test_packages_their_memory_and_the_platform_are_read(tree: powercap.Powercap) -> None:
    """Parts that are within a package are left out, so that nothing is counted twice."""
    found = {each.device: each for each in rapl.Rapl(tree.sys_dir).read()}
    assert {name: (each.kind, each.joules) for name, each in found.items()} == {
        "package-0": ("cpu", 5.0),
        "package-0/dram": ("memory", 2.5),
        "package-1": ("cpu", 7.0),
        "psys": ("platform", 40.0),
    }
    assert found["package-0"].wrap_j == pytest.approx(262_143.32885)
    assert found["package-0/dram"].wrap_j == pytest.approx(65_712.999613)


def test_a_node_without_counters_is_told_apart(tmp_path: pathlib.Path) -> None:
    """A virtual machine has none, which is no fault; other zones of powercap are none either."""
    meter = rapl.Rapl(tmp_path)
    with pytest.raises(port.AbsentError, match="has no package"):
        meter.read()
    powercap.Powercap(tmp_path).zone("intel-rapl:0", "core")
    with pytest.raises(port.AbsentError):
        meter.read()


@pytest.mark.parametrize("broken", ["energy_uj", "max_energy_range_uj"])
def test_a_counter_that_cannot_be_read_names_itself(tree: powercap.Powercap, broken: str) -> None:
    """The others are read as before."""
    file = next(tree.sys_dir.rglob(f"intel-rapl:1/{broken}"))
    for content, said in (("", "package-1: "), ("junk", "package-1: ")):
        file.write_text(content)
        found = {each.device: each for each in rapl.Rapl(tree.sys_dir).read()}
        assert found["package-1"].fault.startswith(said) and found["package-1"].joules is None
        assert found["package-0"].joules == 5.0


def test_who_is_not_root_is_told_so(tree: powercap.Powercap, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses the counter to all others."""
    real = pathlib.Path.read_text

    def refuse(path: pathlib.Path, *args: object, **kwargs: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(pathlib.Path, "read_text", refuse)
    found = rapl.Rapl(tree.sys_dir).read()
    assert len(found) == 4 and all("only root may read it" in each.fault for each in found)

"""GPUs through NVIDIA's own binding, on a library that answers as theirs."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from tests.support import fake_nvml

# Looks once for each state of the library; a new process, as the loader reads LD_LIBRARY_PATH at its start.
_PROGRAM = """
import dataclasses, json, os, sys
from power.meters import nvml, port
meter = nvml.Nvml()
for state in json.loads(sys.argv[1]):
    open(os.environ["FAKE_NVML"], "w").write(state)
    try:
        print(json.dumps([dataclasses.asdict(each) for each in meter.read()]))
    except (port.AbsentError, port.MeterError) as exc:
        print(json.dumps([type(exc).__name__, str(exc)]))
meter.close()
"""
WHOLE = fake_nvml.gpu(
    instant_mw=412_500, mean_mw=1, energy_mj=9_000_500, limit_mw=700_000, mhz=1980, reasons=0x4 | 0x80
)


def looks(folder: pathlib.Path, *states: str, old_driver: bool = False) -> list[Any]:
    """What each look at these states of the library gives."""
    env = os.environ | fake_nvml.build(folder, old_driver=old_driver)
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(states)], env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_a_gpu_is_read_in_watts_joules_and_megahertz(tmp_path: pathlib.Path) -> None:
    """The instant power is taken, and what keeps the clocks down is named."""
    [[found]] = looks(tmp_path, f"0\n{WHOLE}\n")
    assert found == {
        "device": "GPU-0", "kind": "gpu", "name": "NVIDIA H100 80GB HBM3", "watts": 412.5, "joules": 9000.5, "wrap_j": None,
        "limit_w": 700.0, "clock_mhz": 1980, "slowed_by": ["power_cap", "power_brake"], "fault": "",
    }  # fmt: skip


@pytest.mark.parametrize("status", [3, 13], ids=["not supported", "not known to the driver"])
def test_what_a_gpu_cannot_tell_is_not_known(tmp_path: pathlib.Path, status: int) -> None:
    """Without the field the mean is taken; other numbers are None and never zero."""
    [[mean], [none]] = looks(
        tmp_path,
        f"0\n{fake_nvml.gpu(field=status, mean_mw=71_000)}\n",
        f"0\n{fake_nvml.gpu(field=status)}\n",
        old_driver=status == 13,
    )
    assert (mean["watts"], mean["joules"], mean["limit_w"], mean["fault"]) == (71.0, None, None, "")
    assert mean["slowed_by"] == (None if status == 13 else [])
    assert none["watts"] is None and none["fault"] == "GPU 0 (GPU-0) does not tell its power"


def test_a_lost_gpu_leaves_the_others(tmp_path: pathlib.Path) -> None:
    """It has a fault that names it, and comes back by itself."""
    lost = fake_nvml.gpu(status=15)
    first, second = looks(tmp_path, f"0\n{WHOLE}\n{lost}\n", f"0\n{WHOLE}\n{WHOLE}\n")
    assert [each["fault"] for each in first] == ["", "GPU 1: GPU is lost"]
    assert first[1]["watts"] is None
    assert [each["watts"] for each in second] == [412.5, 412.5]


def test_a_driver_that_goes_and_comes(tmp_path: pathlib.Path) -> None:
    """Not loaded is absent, another error is a fault, and each look begins anew."""
    states = ["9\n", "999\n", f"0\n{WHOLE}\n", "999\n", f"0\n{WHOLE}\n"]
    absent, failed, found, gone, back = looks(tmp_path, *states)
    assert absent == ["AbsentError", "no NVIDIA driver: Driver Not Loaded"]
    assert failed[0] == gone[0] == "MeterError" and failed[1].startswith("NVML: ")
    assert found[0]["watts"] == back[0]["watts"] == 412.5


@pytest.mark.parametrize("loaded", [False, True], ids=["no driver", "a driver"])
def test_without_the_library(tmp_path: pathlib.Path, loaded: bool) -> None:
    """A node without NVIDIA's driver has no GPU; where it is loaded, what lacks is in the container."""
    # What the loader finds first is none, also on a machine that has it.
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"no library")
    program = (
        "import pathlib, sys\nfrom power.meters import nvml\n"
        "try: nvml.Nvml(pathlib.Path(sys.argv[1])).read()\nexcept Exception as exc: print(type(exc).__name__, exc)"
    )
    driver = tmp_path if loaded else tmp_path / "none"
    env = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", program, driver], env=env, capture_output=True, text=True, check=True)
    said = "MeterError the node has NVIDIA's driver, and its library" if loaded else "AbsentError no NVIDIA driver"
    assert ran.stdout.startswith(said)


def test_a_driver_without_gpus_has_none(tmp_path: pathlib.Path) -> None:
    """As on a node from which they were taken."""
    [found] = looks(tmp_path, "0\n")
    assert found == ["AbsentError", "NVIDIA's driver has no GPU"]

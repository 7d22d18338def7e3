"""NVIDIA's GPUs, by NVML.

Source: NVML API reference. Power is field 186 (`NVML_FI_DEV_POWER_INSTANT`), as `nvmlDeviceGetPowerUsage` is a mean over a
second on most architectures; where the field is not there, the mean is taken. Energy (mJ) is there from Volta on. A GPU
that is cut into MIG devices is read whole. A virtual GPU tells none of it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import pynvml

from power.meters import port
from power.policy import readings

T = TypeVar("T")

_MILLI = 1e-3
# There while the node's driver is loaded, in every container.
_DRIVER = pathlib.Path("/sys/module/nvidia")
_SLOWED_BY = {
    pynvml.nvmlClocksEventReasonSwPowerCap: "power_cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "thermal",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hardware_thermal",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power_brake",
}
SLOWED_BY = tuple(_SLOWED_BY.values())


class Nvml:
    """See `port.Meter`. A driver that was loaded again is found at the next look."""

    name = "nvml"

    def __init__(self, driver: pathlib.Path = _DRIVER) -> None:
        """`driver`: a folder that is there while the node's driver is loaded."""
        self._driver = driver
        self._open = False

    def read(self) -> list[readings.Reading]:
        """See the port. Five calls a GPU."""
        try:
            if not self._open:
                pynvml.nvmlInit()
                self._open = True
            found = [_reading(index) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as exc:
            self.close()
            if exc.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND and self._driver.exists():
                message = (
                    "the node has NVIDIA's driver, and its library is not in this container: set the runtime class"
                )
                raise port.MeterError(message) from exc
            if exc.value in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
                raise port.AbsentError(f"no NVIDIA driver: {exc}") from exc
            raise port.MeterError(f"NVML: {exc}") from exc
        if not found:
            raise port.AbsentError("NVIDIA's driver has no GPU")
        if not any(each.name for each in found):
            # No GPU answers anything: a driver that went away does so until it is opened anew.
            self.close()
        return found

    def close(self) -> None:
        """Closes the library."""
        if not self._open:
            return
        self._open = False
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            pass  # the driver is gone, and what was open with it


def _reading(index: int) -> readings.Reading:
    try:
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        device = pynvml.nvmlDeviceGetUUID(gpu)
    except pynvml.NVMLError as exc:
        return readings.Reading(f"gpu-{index}", "gpu", fault=f"GPU {index}: {exc}")
    try:
        milliwatts = _power_mw(gpu)
        millijoules = _known(pynvml.nvmlDeviceGetTotalEnergyConsumption, gpu)
        limit_mw = _known(pynvml.nvmlDeviceGetEnforcedPowerLimit, gpu)
        bits = _known(pynvml.nvmlDeviceGetCurrentClocksEventReasons, gpu)
        reading = readings.Reading(
            device,
            "gpu",
            _known(pynvml.nvmlDeviceGetName, gpu) or "",
            watts=None if milliwatts is None else milliwatts * _MILLI,
            joules=None if millijoules is None else millijoules * _MILLI,
            limit_w=None if limit_mw is None else limit_mw * _MILLI,
            clock_mhz=_known(lambda each: pynvml.nvmlDeviceGetClockInfo(each, pynvml.NVML_CLOCK_SM), gpu),
            slowed_by=None if bits is None else tuple(name for bit, name in _SLOWED_BY.items() if bits & bit),
            fault="" if milliwatts is not None else f"GPU {index} ({device}) does not tell its power",
        )
    except pynvml.NVMLError as exc:
        return readings.Reading(device, "gpu", fault=f"GPU {index} ({device}): {exc}")
    return reading


def _known(call: Callable[[Any], T], gpu: Any) -> T | None:
    """What the call gives; None where this GPU or this driver cannot tell. Raises NVMLError for all else."""
    try:
        return call(gpu)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NoData):
        return None


def _power_mw(gpu: Any) -> int | None:
    values = _known(lambda each: pynvml.nvmlDeviceGetFieldValues(each, [pynvml.NVML_FI_DEV_POWER_INSTANT]), gpu)
    if values is not None and values[0].nvmlReturn == pynvml.NVML_SUCCESS:
        return int(values[0].value.uiVal)
    return _known(pynvml.nvmlDeviceGetPowerUsage, gpu)

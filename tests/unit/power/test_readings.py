"""What the devices of a node come to."""

from __future__ import annotations

import pytest

from power.policy import readings


def device(kind: readings.Kind, watts: float | None) -> readings.Reading:
    """One that draws."""
    return readings.Reading(f"{kind}-{watts}", kind, watts=watts)


GPU, LOST = device("gpu", 300.0), device("gpu", None)
CPU, MEMORY = device("cpu", 100.0), device("memory", 20.0)


@pytest.mark.parametrize(
    ("found", "gpus_known", "wanted"),
    [
        ([], True, readings.Sums(0, None, None)),
        ([], False, readings.Sums(None, None, None)),
        ([GPU, GPU, CPU, MEMORY, device("platform", 900.0)], True, readings.Sums(2, 600.0, 120.0)),
        ([GPU, LOST, CPU], True, readings.Sums(2, None, 100.0)),
        ([CPU, device("memory", None)], True, readings.Sums(0, None, None)),
    ],
    ids=["nothing", "not looked", "whole", "a GPU is lost", "memory is not known"],
)
def test_sums(found: list[readings.Reading], gpus_known: bool, wanted: readings.Sums) -> None:
    """A sum is told where each part is known; the platform, which holds the others, is in none."""
    assert readings.sums(found, gpus_known=gpus_known) == wanted

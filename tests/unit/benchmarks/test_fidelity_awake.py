"""Processors are kept awake while something is timed, or it is said why not."""

from __future__ import annotations

import pathlib

from benchmarks.fidelity import awake


def test_the_wish_is_held_as_long_as_it_lasts(tmp_path: pathlib.Path) -> None:
    """A latency of 0 us, as four bytes."""
    device = tmp_path / "latency"
    device.touch()
    with awake.processors(device) as why_not:
        assert why_not == ""
        held = [link for link in pathlib.Path("/proc/self/fd").iterdir() if link.exists() and link.samefile(device)]
        assert len(held) == 1
    assert device.read_bytes() == bytes(4)
    assert not [link for link in pathlib.Path("/proc/self/fd").iterdir() if link.exists() and link.samefile(device)]


def test_who_may_not_is_told_so(tmp_path: pathlib.Path) -> None:
    """The run goes on."""
    with awake.processors(tmp_path / "none") as why_not:
        assert why_not.startswith("processors sleep while nothing runs") and "No such file" in why_not

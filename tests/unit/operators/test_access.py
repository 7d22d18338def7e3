"""The token of a ServiceAccount, which the kubelet replaces before it ends."""

from __future__ import annotations

import pathlib

from operators import access
from penstock.runtime import clock as clocks


async def test_a_rotated_token_is_read_anew(tmp_path: pathlib.Path) -> None:
    """Within a minute of its replacement; the last one is kept while the file cannot be read."""
    clock = clocks.ManualClock()
    file = tmp_path / "token"
    file.write_text("one\n")
    token = access.RotatingToken(file, clock)
    assert token() == "one"
    file.write_text("two\n")
    await clock.advance(59)
    assert token() == "one"
    await clock.advance(1)
    assert token() == "two"
    file.unlink()
    await clock.advance(61)
    assert token() == "two"

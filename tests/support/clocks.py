"""Clocks for tests."""

from __future__ import annotations

import asyncio

from penstock.runtime import clock


class HastyClock(clock.SystemClock):
    """A clock whose sleeps take no time and are written down."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []

    async def sleep(self, duration_s: float) -> None:
        """Lets others run."""
        self.slept_s.append(duration_s)
        await asyncio.sleep(0)

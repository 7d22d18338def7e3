"""The manual clock."""

from __future__ import annotations

import asyncio

from penstock.runtime import clock


async def test_sleepers_wake_in_order_at_their_time() -> None:
    """Advancing wakes each sleeper at its own time, also one that starts to sleep again."""
    manual = clock.ManualClock(now_s=100.0)
    seen: list[tuple[str, float]] = []

    async def run(name: str, every_s: float, times: int) -> None:
        for _ in range(times):
            await manual.sleep(every_s)
            seen.append((name, manual.now_s()))

    tasks = [asyncio.create_task(run("a", 2.0, 2)), asyncio.create_task(run("b", 3.0, 1))]
    await manual.advance(3.5)
    assert seen == [("a", 102.0), ("b", 103.0)] and manual.monotonic_s() == 3.5
    await manual.advance(1.0)
    assert seen[-1] == ("a", 104.0)
    await asyncio.gather(*tasks)

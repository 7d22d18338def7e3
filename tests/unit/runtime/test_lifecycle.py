"""Lifecycle: order, deadlines, failures."""

from __future__ import annotations

import asyncio

import pytest

from penstock.runtime import errors, lifecycle


class Part:
    """A component that writes down what is done to it."""

    def __init__(self, name: str, done: list[str], *, fail: str = "", hang: str = "") -> None:
        self.name, self.done, self.fail, self.hang = name, done, fail, hang

    async def _do(self, what: str) -> None:
        self.done.append(f"{what} {self.name}")
        if self.hang == what:
            await asyncio.Event().wait()
        if self.fail == what:
            raise RuntimeError(f"{what} of redis://:pw@h broke")

    async def start(self) -> None:
        """Starts, fails or hangs."""
        await self._do("start")

    async def stop(self) -> None:
        """Stops, fails or hangs."""
        await self._do("stop")


def build(done: list[str], **b: str) -> lifecycle.Lifecycle:
    """Three parts of which the second misbehaves as told."""
    life = lifecycle.Lifecycle("test")
    for name, kwargs in (("a", {}), ("b", b), ("c", {})):
        life.add(name, Part(name, done, **kwargs), start_timeout_s=0.05, stop_timeout_s=0.05)
    return life


async def test_starts_in_order_stops_in_reverse() -> None:
    """Components start as added and stop last first."""
    done: list[str] = []
    life = build(done)
    stopped = asyncio.Event()
    stopped.set()
    assert await life.run(stopped) == []
    assert done == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


@pytest.mark.parametrize("how", ["fail", "hang"])
async def test_failing_start_stops_what_had_started(how: str) -> None:
    """A component that fails or hangs at start is stopped with those before it; later ones never start."""
    done: list[str] = []
    with pytest.raises(errors.StartError, match="b did not start") as caught:
        await build(done, **{how: "start"}).start()
    assert done == ["start a", "start b", "stop b", "stop a"] and ":pw@" not in str(caught.value)


@pytest.mark.parametrize("how", ["fail", "hang"])
async def test_failing_stop_does_not_keep_the_rest(how: str) -> None:
    """A component that fails or hangs at stop is named; the others are stopped."""
    done: list[str] = []
    life = build(done, **{how: "stop"})
    await life.start()
    assert await life.stop() == ["b"]
    assert done[-3:] == ["stop c", "stop b", "stop a"]

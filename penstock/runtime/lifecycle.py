"""Starts components in order and stops them in reverse, each with a deadline."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Callable, Mapping
from typing import Protocol

from penstock.runtime import errors, logs


class Component(Protocol):
    """Something that runs between `start` and `stop`."""

    async def start(self) -> object:
        """Returns once the component does its work; raises where it cannot."""

    async def stop(self) -> object:
        """Returns once nothing of it is left. Called also after a `start` that failed half way."""


@dataclasses.dataclass(frozen=True)
class _Entry:
    name: str
    component: Component
    start_timeout_s: float
    stop_timeout_s: float


class Lifecycle:
    """The components of one process."""

    def __init__(self, process: str) -> None:
        self.log = logs.get(process)
        self._entries: list[_Entry] = []
        self._started: list[_Entry] = []

    def add(
        self, name: str, component: Component, *, start_timeout_s: float = 30.0, stop_timeout_s: float = 10.0
    ) -> None:
        """Adds a component behind those that it needs."""
        self._entries.append(_Entry(name, component, start_timeout_s, stop_timeout_s))

    async def start(self) -> None:
        """Starts everything; where one fails, stops what had started and raises `StartError`."""
        for entry in self._entries:
            self._started.append(entry)
            try:
                async with asyncio.timeout(entry.start_timeout_s):
                    await entry.component.start()
            except TimeoutError as exc:
                await self.stop()
                raise errors.StartError(f"{entry.name} did not start within {entry.start_timeout_s:g} s") from exc
            except Exception as exc:
                await self.stop()
                raise errors.StartError(f"{entry.name} did not start: {logs.mask_urls(str(exc))}") from exc
            except asyncio.CancelledError:
                await self.stop()
                raise
            self.log.debug("component_started", name=entry.name)

    async def stop(self) -> list[str]:
        """Stops what has started, last first. Returns the names of those that failed or overran their deadline."""
        failed: list[str] = []
        while self._started:
            entry = self._started.pop()
            try:
                async with asyncio.timeout(entry.stop_timeout_s):
                    await entry.component.stop()
            except TimeoutError:
                failed.append(entry.name)
                self.log.warning("component_stop_overran", name=entry.name, deadline_s=entry.stop_timeout_s)
            except Exception as exc:
                failed.append(entry.name)
                self.log.warning("component_stop_failed", name=entry.name, error=str(exc))
        return failed

    async def run(self, stopped: asyncio.Event) -> list[str]:
        """Starts everything, waits for `stopped`, stops everything. Returns what `stop` returns."""
        await self.start()
        try:
            await stopped.wait()
        finally:
            failed = await self.stop()
        return failed


async def until_signalled(life: Lifecycle, name: str, about: Callable[[], Mapping[str, object]]) -> int:
    """Runs a process until SIGTERM or SIGINT; the exit status: 1 where something did not stop as it should.

    `name` begins its log's events; `about` is told with them, once it has started.
    """
    stopped = asyncio.Event()
    stop_on_signals(stopped)
    await life.start()
    said = dict(about())
    ready, ended = f"{name}_ready", f"{name}_stopped"
    life.log.info(ready, **said)
    await stopped.wait()
    failed = await life.stop()
    life.log.info(ended, **said, overran=failed)
    return 1 if failed else 0


def stop_on_signals(stopped: asyncio.Event) -> None:
    """Makes SIGTERM and SIGINT set `stopped`; a second one ends the process as it would without this."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        stopped.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)

"""Asks engines whether they live: those that failed, and those that are silent with requests in flight.

Healthy endpoints are not asked, so the cost does not grow with the fleet; registered workers have their leases besides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from penstock.runtime import clock as clocks
from penstock.runtime import logs
from router.dataplane import fleet, gateway, upstream

PROBE_TIMEOUT_S = 3.0
SUSPECT_INTERVAL_S = 0.5
# A silent endpoint is given up after this many probes in a row without an answer.
SILENT_PROBES = 2


async def alive(connections: upstream.Connections, timeout_s: float) -> bool:
    """Whether an engine answers `GET /health` with anything below 500."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(connections.host, connections.port, ssl=connections.tls)
            writer.write(b"GET /health HTTP/1.1\r\n" + connections.host_header + b"connection: close\r\n\r\n")
            line = await reader.readline()
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
        if writer is not None:
            writer.close()
    return line.startswith(b"HTTP/1.") and line[9:12].isdigit() and int(line[9:12]) < 500


class Prober:
    """Runs the gateway's ticks and the probes that come of them."""

    def __init__(self, owner: gateway.Gateway, clock: clocks.Clock) -> None:
        self._gateway = owner
        self._clock = clock
        self._log = logs.get("gateway")
        self._failures: dict[str, int] = {}
        self._probing: dict[str, asyncio.Task[None]] = {}

    def tick(self) -> None:
        """Starts the probes that are due. Every `gateway.TICK_S`."""
        owner = self._gateway
        now_tick = owner.tick
        for endpoint_id, backend in list(owner.suspects.items()):
            if owner.fleet.backends.get(endpoint_id) is not backend:
                del owner.suspects[endpoint_id]
            elif now_tick >= backend.probe_after_tick:
                self._start(backend, self._probe_suspect(backend))
        for backend in owner.on_tick():
            if backend.health is not fleet.Health.EJECTED:
                self._start(backend, self._probe_silent(backend))

    def _start(self, backend: fleet.Backend, probe: Coroutine[Any, Any, None]) -> None:
        if backend.id in self._probing:
            probe.close()
            return
        task = self._gateway.loop.create_task(probe)
        self._probing[backend.id] = task
        task.add_done_callback(lambda _: self._probing.pop(backend.id, None))

    async def _probe_suspect(self, backend: fleet.Backend) -> None:
        if await alive(backend.connections, PROBE_TIMEOUT_S):
            self._gateway.readmit(backend)
            self._log.info("endpoint_readmitted", endpoint=backend.id)
        else:
            backend.probe_after_tick = self._gateway.tick + int(SUSPECT_INTERVAL_S / gateway.TICK_S)

    async def _probe_silent(self, backend: fleet.Backend) -> None:
        if await alive(backend.connections, PROBE_TIMEOUT_S):
            self._failures.pop(backend.id, None)
            backend.last_byte_tick = self._gateway.tick
            return
        count = self._failures[backend.id] = self._failures.get(backend.id, 0) + 1
        if count < SILENT_PROBES:
            return
        self._failures.pop(backend.id, None)
        self._log.warning("endpoint_silent", endpoint=backend.id, probes=count, inflight=len(backend.active))
        self._gateway.suspect(backend)
        for ex in list(backend.active):
            ex.abandon()  # type: ignore[attr-defined]

    async def stop(self) -> None:
        """Ends the probes."""
        tasks = list(self._probing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""Workers' load, from their own metrics. What cannot be read is None."""

from __future__ import annotations

import asyncio
import dataclasses

from controller import calibration
from penstock.api import types
from penstock.runtime import clock as clocks
from penstock.runtime import logs, tasks
from workers.adapters import registry as adapters
from workers.adapters import stats

_TIMEOUT_S = 1.0
_AT_ONCE = 32
_MAX_BYTES = 4 * 2**20
# An older reading is none.
_STALE_S = 5.0


@dataclasses.dataclass(frozen=True)
class Reading:
    """One worker's statistics and when they were read."""

    stats: stats.EngineStats
    cached_blocks: int | None
    at_monotonic_s: float


class Scraper:
    """Keeps the last reading of each ready or draining worker."""

    def __init__(self, clock: clocks.Clock, *, interval_s: float) -> None:
        self._clock, self._interval_s = clock, interval_s
        self._log = logs.get("scrape")
        self._workers: dict[str, types.WorkerRecord] = {}
        self._readings: dict[str, Reading] = {}
        self._task: asyncio.Task[None] | None = None
        self.calibrations = calibration.Calibrations()

    async def start(self) -> None:
        """Starts reading."""
        self._task = asyncio.create_task(self._run(), name="scrape")

    async def stop(self) -> None:
        """Stops reading."""
        if self._task is not None:
            await tasks.cancel([self._task])

    def follow(self, workers: dict[str, types.WorkerRecord]) -> None:
        """The workers to read from now on."""
        self._workers = {
            name: record for name, record in workers.items() if record.state is not types.WorkerState.STARTING
        }
        self._readings = {name: value for name, value in self._readings.items() if name in self._workers}
        self.calibrations.keep(set(self._workers))

    def reading(self, worker_id: str) -> Reading | None:
        """The last reading, None where there is none or it is too old."""
        value = self._readings.get(worker_id)
        if value is None or self._clock.monotonic_s() - value.at_monotonic_s > max(_STALE_S, 3 * self._interval_s):
            return None
        return value

    def load(self, worker_id: str) -> int | None:
        """Running and waiting requests; None is unknown."""
        value = self.reading(worker_id)
        if value is None or value.stats.running is None or value.stats.waiting is None:
            return None
        return value.stats.running + value.stats.waiting

    async def _run(self) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)
        while True:
            await asyncio.gather(*(self._one(gate, record) for record in list(self._workers.values())))
            await self._clock.sleep(self._interval_s)

    async def _one(self, gate: asyncio.Semaphore, record: types.WorkerRecord) -> None:
        async with gate:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    text = (await get(record.endpoint.host, record.endpoint.port, "/metrics")).decode()
                reading = adapters.parser_for(record.engine)(text)
            except (OSError, TimeoutError, ValueError) as exc:
                self._log.debug("scrape_failed", worker=record.id, reason=str(exc) or type(exc).__name__)
                return
        cached = stats.Samples(text).count("penstock:cached_blocks", "penstock_cached_blocks")
        before = self.reading(record.id)
        self._readings[record.id] = Reading(reading, cached, self._clock.monotonic_s())
        if before is not None:
            self.calibrations.take(record.id, record.incarnation, before.stats, reading)


async def get(host: str, port: int, path: str) -> bytes:
    """The body of a plain GET. Raises OSError where the answer is not 200 or too large."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        name = f"[{host}]" if ":" in host else host
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode())
        data = bytearray()
        while chunk := await reader.read(65536):
            data += chunk
            if len(data) > _MAX_BYTES:
                raise OSError(f"answer to {path} above {_MAX_BYTES} bytes")
    finally:
        writer.close()
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status == [b"404"]:
        raise FileNotFoundError(path)
    if status != [b"200"]:
        raise OSError(f"{path} answered {b''.join(status).decode() or 'nothing'}")
    if b"transfer-encoding: chunked" in head.lower():
        return _dechunk(body)
    return body


def _dechunk(body: bytes) -> bytes:
    out, rest = bytearray(), body
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        out += rest[:size]
        rest = rest[size + 2 :]
    return bytes(out)

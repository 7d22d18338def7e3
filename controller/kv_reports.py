"""How many blocks each engine has cached, from the reports that workers make of its KV events."""

from __future__ import annotations

from typing import Any

import msgspec
import redis.asyncio as aioredis

from penstock.api import types, wire
from penstock.runtime import redis as redis_link

_PAGE = 1_024


class KvReports:
    """The last report of each engine; read when somebody asks, so that nobody pays for it otherwise."""

    def __init__(self, client: aioredis.Redis, keys: wire.Keys) -> None:
        self._redis, self._stream = client, keys.kv_reports
        self._decode = msgspec.msgpack.Decoder(wire.KvReport).decode
        self._cursor: Any = "0-0"
        self._last: dict[str, wire.KvReport] = {}

    async def refresh(self, workers: dict[str, types.WorkerRecord]) -> None:
        """Takes what came since the last call and drops engines that are gone. Raises `RetryableError` without Redis."""
        with redis_link.translated("read reports of KV events"):
            while True:
                answer: Any = await self._redis.xread({self._stream: self._cursor}, count=_PAGE)
                rows = answer[0][1] if answer else []
                for self._cursor, fields in rows:
                    self._take(fields.get(b"d", b""))
                if len(rows) < _PAGE:
                    break
        present = {wire.endpoint_key(record.id, record.incarnation) for record in workers.values()}
        self._last = {name: report for name, report in self._last.items() if name in present}

    def cached_blocks(self, record: types.WorkerRecord) -> int | None:
        """Blocks that the engine has cached; None where it did not report or some of its events were missed."""
        report = self._last.get(wire.endpoint_key(record.id, record.incarnation))
        return None if report is None or report.approximate else report.resident_blocks

    def _take(self, raw: bytes) -> None:
        try:
            report = self._decode(raw)
        except msgspec.MsgspecError:
            return
        if report.version == wire.VERSION:
            self._last[report.endpoint] = report

"""KV events of a simulated engine reach Redis as reports."""

from __future__ import annotations

import asyncio
import pathlib

import httpx
import msgspec
import redis.asyncio as aioredis

from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis
from workers import kv_relay
from workers.sim import server as sim_server
from workers.sim import settings as sim_settings


async def test_engines_cache_is_reported(tmp_path: pathlib.Path) -> None:
    """Blocks that a prompt fills are reported as resident, and the emptied cache as cleared."""
    clock = clocks.SystemClock()
    redis = embedded_redis.EmbeddedRedis(tmp_path, clock)
    await redis.start()
    engine = sim_server.SimServer(sim_settings.SimSettings(model="m", kv_events_port=0, kv_replay_port=0))
    port = await engine.start()
    record = types.WorkerRecord(
        id="w", incarnation=3, deployment="d", model="m", endpoint=types.Endpoint(host="127.0.0.1", port=port),
        state=types.WorkerState.READY, engine="sim",
        kv_events=f"tcp://127.0.0.1:{engine.kv_events_port}", kv_replay=f"tcp://127.0.0.1:{engine.kv_replay_port}",
    )  # fmt: skip
    client = aioredis.Redis.from_url(redis.url)
    keys = wire.Keys("default")
    relay = kv_relay.KvRelay(record, client, keys, clock)
    await relay.start()
    decode = msgspec.msgpack.Decoder(wire.KvReport).decode
    reports: list[wire.KvReport] = []

    async def until_report(cleared: bool) -> wire.KvReport:
        async with asyncio.timeout(15):
            while True:
                entries = await client.xrange(keys.kv_reports)
                reports[:] = [decode(fields[b"d"]) for _, fields in entries]
                if reports and (reports[-1].cleared or not cleared) and reports[-1].endpoint == "w/3":
                    return reports[-1]
                await asyncio.sleep(0.05)

    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
            answer = await http.post("/v1/completions", json={"model": "m", "prompt": "word " * 200, "max_tokens": 1})
            assert answer.status_code == 200
            filled = await until_report(cleared=False)
            assert filled.resident_blocks * filled.block_tokens >= 200
            await http.post("/reset_prefix_cache")
            emptied = await until_report(cleared=True)
        assert emptied.resident_blocks == 0
    finally:
        await relay.stop()
        await client.aclose()
        await engine.stop(0.0)
        await redis.stop()

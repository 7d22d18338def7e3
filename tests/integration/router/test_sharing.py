"""Gateways share placements and load over a real Redis, and go on without it."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import redis.asyncio as aioredis

from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, registry
from tests.support import gateways, scripted_engine

PROMPT = "shared words " * 400


class Fleet:
    """Two engines, registered in a Redis of the test's own, and kept there by a heartbeat."""

    def __init__(self, server: embedded_redis.EmbeddedRedis) -> None:
        self.redis = server
        self.engines = [scripted_engine.ScriptedEngine() for _ in range(2)]
        self.client = aioredis.Redis.from_url(server.url)
        self.store = registry.RedisRegistry(self.client, wire.Keys("default"))
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts and registers the engines."""
        for engine in self.engines:
            await engine.start()
        await self._register()
        self._task = asyncio.create_task(self._renew())

    async def stop(self) -> None:
        """Stops everything."""
        if self._task is not None:
            self._task.cancel()
        for engine in self.engines:
            await engine.stop()
        await self.client.aclose()

    def record(self, number: int) -> types.WorkerRecord:
        """Record of one engine."""
        return types.WorkerRecord(
            id=f"w{number}",
            incarnation=1,
            deployment="d",
            model="m",
            endpoint=types.Endpoint(host="127.0.0.1", port=self.engines[number].port),
            state=types.WorkerState.READY,
            engine="sim",
        )

    async def _register(self) -> None:
        for number in range(len(self.engines)):
            await self.store.register(self.record(number), 3.0)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            try:
                for number in range(len(self.engines)):
                    if not await self.store.renew(f"w{number}", 1, 3.0):
                        await self._register()
            except Exception:
                continue

    async def leave(self) -> None:
        """The engines leave the registry and stay away."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for number in range(len(self.engines)):
            await self.store.deregister(f"w{number}", 1)

    def settings(self, name: str) -> dict[str, Any]:
        """Settings of a gateway over this fleet."""
        return {"id": name, "redis_url": self.redis.url, "share": {"interval_s": 0.01}}


@pytest.fixture
async def fleet(tmp_path: pathlib.Path) -> AsyncIterator[Fleet]:
    server = embedded_redis.EmbeddedRedis(tmp_path, clocks.SystemClock())
    await server.start()
    started = Fleet(server)
    await started.start()
    yield started
    await started.stop()
    await server.stop()


async def _endpoint_of(gateway: gateways.Running, content: str) -> str:
    return str((await gateway.chat(content)).headers["x-penstock-endpoint"])


async def _blocks(gateway: gateways.Running) -> int:
    return int(await gateway.metric("penstock_gateway_index_blocks"))


async def test_placement_of_one_gateway_is_known_to_the_other(fleet: Fleet) -> None:
    """A prompt that one gateway placed is sent to the same endpoint by the other."""
    async with gateways.running(**fleet.settings("a")) as first, gateways.running(**fleet.settings("b")) as second:
        for number in range(8):
            content = f"{number} {PROMPT}"
            before = await _blocks(second)
            placed = await _endpoint_of(first, content)
            await gateways.until(lambda before=before: _more_blocks(second, before))
            assert await _endpoint_of(second, content) == placed


async def _more_blocks(gateway: gateways.Running, before: int) -> bool:
    return await _blocks(gateway) > before


async def test_gateway_that_starts_takes_a_snapshot(fleet: Fleet) -> None:
    """A gateway that starts later knows what the others placed before."""
    async with gateways.running(**fleet.settings("a")) as first:
        placed = [await _endpoint_of(first, f"{number} {PROMPT}") for number in range(6)]
        known = await _blocks(first)
        async with gateways.running(**fleet.settings("b")) as second:
            await gateways.until(lambda: _has_blocks(second, known))
            assert [await _endpoint_of(second, f"{number} {PROMPT}") for number in range(6)] == placed


async def test_gateway_that_starts_takes_one_snapshot_after_the_other(fleet: Fleet) -> None:
    """What two peers give at the same time comes by one list, and nothing of it is lost."""
    async with gateways.running(**fleet.settings("a")) as first, gateways.running(**fleet.settings("b")) as second:
        for number in range(4):
            await _endpoint_of(first if number % 2 else second, f"{number} {PROMPT}")
        await gateways.until(lambda: _more_blocks(second, 0))
        async with gateways.running(**fleet.settings("c")) as third:
            # One that is not answered would take three seconds, and not be counted.
            await gateways.until(lambda: _took(third, 2), 2.5, "both snapshots")
            await gateways.until(lambda: _says_nothing(third))


async def _took(gateway: gateways.Running, count: int) -> bool:
    return await gateway.metric("penstock_gateway_share_snapshots_taken_total") == count


async def _says_nothing(gateway: gateways.Running) -> bool:
    return not (await gateway.admin.get("/debug/state")).json()["degraded"]


async def _has_blocks(gateway: gateways.Running, count: int) -> bool:
    return await _blocks(gateway) == count


async def test_gap_is_noticed_and_repaired(fleet: Fleet) -> None:
    """Batches that were trimmed away before they were read are asked for again, as a whole."""
    async with gateways.running(**fleet.settings("a")) as first, gateways.running(**fleet.settings("b")) as second:
        await _endpoint_of(first, "0 " + PROMPT)
        await gateways.until(lambda: _more_blocks(second, 0))
        # The stream is pulled away while the first gateway writes: the second misses batches.
        await fleet.client.execute_command("CLIENT", "PAUSE", "150", "WRITE")
        keys = wire.Keys("default")
        for number in range(1, 12):
            await _endpoint_of(first, f"{number} {PROMPT}")
            await fleet.client.xtrim(keys.gateway_deltas, maxlen=0, approximate=False)
        known = await _blocks(first)
        await gateways.until(lambda: _has_blocks(second, known), what="the repair")


async def test_load_of_one_gateway_is_seen_by_the_other(fleet: Fleet) -> None:
    """Requests in flight at one gateway count in the other's decisions, and are gone when they end or it dies."""
    for engine in fleet.engines:
        engine.behaviour = scripted_engine.never
    async with gateways.running(**fleet.settings("a")) as first:
        async with gateways.running(**fleet.settings("b")) as second:
            waiting = [asyncio.create_task(second.chat(f"{number}", stream=True)) for number in range(4)]
            await gateways.until(lambda: _peer_running(first, 4))
            for request in waiting[:2]:
                request.cancel()
            await gateways.until(lambda: _peer_running(first, 2))
            for request in waiting[2:]:
                request.cancel()
        await gateways.until(lambda: _peer_running(first, 0))


async def test_prefills_of_one_gateway_make_a_worker_busy_for_the_other(fleet: Fleet) -> None:
    """How busy prefills keep a worker is the same in both, also once nothing runs there any more."""
    async with gateways.running(**fleet.settings("a")) as first, gateways.running(**fleet.settings("b")) as second:
        endpoint = await _endpoint_of(second, PROMPT)
        await _endpoint_of(first, "other " + PROMPT)
        await gateways.until(lambda: _peer_running(first, 0))
        await gateways.until(lambda: _is_busy(first, endpoint))


async def _is_busy(gateway: gateways.Running, endpoint: str) -> bool:
    rows = (await gateway.admin.get("/debug/endpoints")).json()["endpoints"]
    return sum(row["peer_busy_ms"] for row in rows if row["id"] == endpoint) > 0


async def _peer_running(gateway: gateways.Running, count: int) -> bool:
    rows = (await gateway.admin.get("/debug/endpoints")).json()["endpoints"]
    # None of them has had a first byte.
    return [sum(row[key] for row in rows) for key in ("peer_running", "peer_waiting")] == [count, count]


async def test_gateways_go_on_without_redis_and_say_so(fleet: Fleet, tmp_path: pathlib.Path) -> None:
    """With Redis gone requests are answered over the last known workers; the degraded mode is visible, and ends."""
    async with gateways.running(**fleet.settings("a")) as gateway:
        assert (await gateway.chat()).status_code == 200
        port = int(fleet.redis.url.rpartition(":")[2].partition("/")[0])
        password = fleet.redis.url.partition("://")[2].partition("@")[0].rpartition(":")[2]
        await fleet.redis.stop()
        await gateways.until(lambda: _degraded(gateway, "registry-lost"), 15)
        answers = [await gateway.chat(str(number)) for number in range(10)]
        assert [answer.status_code for answer in answers] == [200] * 10
        ready = (await gateway.client.get("/readyz")).json()
        assert any("registry-lost" in line for line in ready["degraded"])
        # The same address and password, as a Redis that restarts empty has.
        restarted = await asyncio.create_subprocess_exec(
            str(embedded_redis.find_binary()), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", password,
            "--save", "", "--dir", str(tmp_path),
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await gateways.until(lambda: _healthy(gateway), 15, "the return of Redis")
            assert (await gateway.chat()).status_code == 200
        finally:
            restarted.terminate()
            await restarted.wait()


async def _degraded(gateway: gateways.Running, mode: str) -> bool:
    state = (await gateway.admin.get("/debug/state")).json()
    return any(line.startswith(mode) for line in state["degraded"])


async def _healthy(gateway: gateways.Running) -> bool:
    return not (await gateway.admin.get("/debug/state")).json()["degraded"]


async def test_kv_reports_correct_the_index(fleet: Fleet) -> None:
    """An engine that evicts keeps no more in the index than it says it holds; one that was emptied keeps nothing."""
    encode = msgspec.msgpack.Encoder().encode
    keys = wire.Keys("default")

    async def report(endpoint: str, **fields: Any) -> None:
        values = {"resident_blocks": 0, "evicted_blocks": 0, "cleared": False, "approximate": False, **fields}
        made = wire.KvReport(version=wire.VERSION, endpoint=endpoint, seq=1, block_tokens=16, **values)
        await fleet.client.xadd(keys.kv_reports, {"d": encode(made)})

    async with gateways.running(**fleet.settings("a")) as gateway:
        for number in range(8):
            await gateway.chat(f"{number} {PROMPT}")
        full = await _blocks(gateway)
        # Of a former incarnation, and with missed events: neither is taken for the truth.
        await report("w0/7", cleared=True)
        await report("w0/1", resident_blocks=1, evicted_blocks=5, approximate=True)
        for number in range(2):
            await report(f"w{number}/1", resident_blocks=32, evicted_blocks=5)
        await gateways.until(lambda: _fewer_blocks(gateway, full))
        assert await _blocks(gateway) > 0
        for number in range(2):
            await report(f"w{number}/1", cleared=True)
        await gateways.until(lambda: _has_blocks(gateway, 0))


async def _fewer_blocks(gateway: gateways.Running, before: int) -> bool:
    return await _blocks(gateway) < before


async def test_deployment_chooses_its_routing_profile(fleet: Fleet) -> None:
    """The profile of a model's deployment is used for it; one that does not exist is a degraded mode, not a fallback."""
    keys = wire.Keys("default")
    deployment = types.ModelDeployment(name="d", model="m", policy="round-robin")
    await fleet.client.hset(keys.deployments, "d", deployment.model_dump_json())
    async with gateways.running(**fleet.settings("a")) as gateway:
        placed = [await _endpoint_of(gateway, PROMPT) for _ in range(4)]
        assert placed == placed[:2] * 2 and placed[0] != placed[1]
        newer = deployment.model_dump_json().replace("round-robin", "psychic")
        await fleet.client.hset(keys.deployments, "d", newer)
        await gateways.until(lambda: _degraded(gateway, "policy-unknown"))
        again = [await _endpoint_of(gateway, PROMPT) for _ in range(2)]
        assert again[0] != again[1]


async def test_model_without_workers_is_overload_and_not_unknown(fleet: Fleet) -> None:
    """A deployed model whose last worker is gone is 503 with Retry-After; a model that nobody deploys is 404."""
    deployment = types.ModelDeployment(name="d", model="m")
    await fleet.client.hset(wire.Keys("default").deployments, "d", deployment.model_dump_json())
    async with gateways.running(**fleet.settings("a")) as gateway:
        assert (await gateway.chat()).status_code == 200
        await fleet.leave()

        async def gone() -> bool:
            return (await gateway.admin.get("/debug/endpoints")).json()["endpoints"] == []

        await gateways.until(gone)
        none = await gateway.chat()
        assert (none.status_code, none.json()["error"]["code"]) == (503, "no_ready_endpoint")
        assert int(none.headers["retry-after"]) >= 1
        assert (await gateway.chat(model="other")).status_code == 404

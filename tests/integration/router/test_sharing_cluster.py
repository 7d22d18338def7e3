"""Gateways over a real Redis Cluster: they share, and route on while it fails over or moves their slot."""

from __future__ import annotations

import asyncio
import pathlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import errors, redis, registry
from tests.support import gateways, redis_nodes, scripted_engine

PROMPT = "shared words " * 400


class Fleet:
    """Two engines that keep themselves registered, and two gateways under requests."""

    def __init__(self, cluster: redis_nodes.Cluster) -> None:
        self.cluster = cluster
        self.engines = [scripted_engine.ScriptedEngine() for _ in range(2)]
        self.link = redis.RedisLink(cluster.url, clocks.SystemClock(), name="engines")
        self.store = registry.RedisRegistry(self.link.client, wire.Keys("default"))
        self.statuses: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._senders: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Starts and registers the engines."""
        await self.link.start()
        for engine in self.engines:
            await engine.start()
        for number in range(2):
            await self.store.register(self._record(number), 3.0)
        self._tasks.append(asyncio.create_task(self._renew()))

    async def stop(self) -> None:
        """Stops everything."""
        await self.quiet()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for engine in self.engines:
            await engine.stop()
        await self.link.stop()

    def load(self, *entries: gateways.Running) -> None:
        """Sends requests to the gateways in turn from now on."""

        async def send(entry: gateways.Running, name: str) -> None:
            number = 0
            while True:
                number += 1
                self.statuses.append((await entry.chat(f"{name} {number} {PROMPT}")).status_code)

        self._senders = [asyncio.create_task(send(entry, str(number))) for number, entry in enumerate(entries)]

    async def quiet(self) -> None:
        """No more requests."""
        for task in self._senders:
            task.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)

    async def more(self, count: int = 20) -> None:
        """Until so many more requests were answered."""
        wanted = len(self.statuses) + count
        await gateways.until(lambda: len(self.statuses) >= wanted, 30.0)

    def settings(self, name: str) -> dict[str, Any]:
        """Of a gateway."""
        return {"id": name, "redis_url": self.cluster.url, "share": {"interval_s": 0.01}}

    def _record(self, number: int) -> types.WorkerRecord:
        return types.WorkerRecord(
            id=f"w{number}", incarnation=1, deployment="d", model="m", engine="sim", state=types.WorkerState.READY,
            endpoint=types.Endpoint(host="127.0.0.1", port=self.engines[number].port),
        )  # fmt: skip

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(0.3)
            try:
                for number in range(2):
                    if not await self.store.renew(f"w{number}", 1, 3.0):
                        await self.store.register(self._record(number), 3.0)
            except errors.RetryableError:
                continue


@pytest.fixture
async def fleet(tmp_path: pathlib.Path) -> AsyncIterator[Fleet]:
    """On a cluster whose shards have a replica each."""
    async with redis_nodes.running(tmp_path, replicas=True) as cluster:
        made = Fleet(cluster)
        await made.start()
        yield made
        await made.stop()


async def _shared(first: gateways.Running, second: gateways.Running, what: str) -> bool:
    """Whether a prompt that one gateway places now is sent to the same endpoint by the other."""
    before = await _quiet_blocks(second)
    placed = (await first.chat(f"{what} {PROMPT}")).headers["x-penstock-endpoint"]
    await gateways.until(lambda: _more_blocks(second, before), 20.0)
    return str((await second.chat(f"{what} {PROMPT}")).headers["x-penstock-endpoint"]) == str(placed)


async def _quiet_blocks(gateway: gateways.Running) -> float:
    """When nothing of earlier prompts has come for many times the interval at which gateways share."""
    found, seen = await _blocks(gateway), -1.0
    async with asyncio.timeout(20.0):
        while found != seen:
            await asyncio.sleep(0.5)
            found, seen = await _blocks(gateway), found
    return found


async def _blocks(gateway: gateways.Running) -> float:
    return await gateway.metric("penstock_gateway_index_blocks")


async def _more_blocks(gateway: gateways.Running, before: float) -> bool:
    return await _blocks(gateway) > before


async def _has_mode(gateway: gateways.Running, mode: str) -> bool:
    state = (await gateway.admin.get("/debug/state")).json()
    return any(line.startswith(mode) for line in state["degraded"])


async def _are_well(*running: gateways.Running) -> bool:
    return not any([(await each.admin.get("/debug/state")).json()["degraded"] for each in running])


async def test_gateways_route_on_through_a_failover(fleet: Fleet) -> None:
    """The primary of the fleet's shard is killed under requests: all are answered, and then the gateways share again."""
    async with gateways.running(**fleet.settings("a")) as first, gateways.running(**fleet.settings("b")) as second:
        assert await _shared(first, second, "before")
        fleet.load(first, second)
        await fleet.more()
        fleet.cluster.owner("default").signal(signal.SIGKILL)
        await gateways.until(lambda: _has_mode(first, "sharing-lost"), 20.0)
        await fleet.more()
        await gateways.until(lambda: _are_well(first, second), 30.0)
        await fleet.more()
        await fleet.quiet()
        assert set(fleet.statuses) == {200}
        assert await _shared(first, second, "after")


async def test_gateways_route_on_while_their_slot_moves(fleet: Fleet) -> None:
    """To another shard, key by key, under requests: all are answered, and the gateways share on the new shard."""
    source = fleet.cluster.owner("default")
    target = next(node for node in fleet.cluster.primaries if node is not source)
    async with gateways.running(**fleet.settings("a")) as first, gateways.running(**fleet.settings("b")) as second:
        fleet.load(first, second)
        await fleet.more()
        move = redis_nodes.Move(redis_nodes.slot_of("default"), source, target, fleet.cluster.primaries)
        await move.begin()
        await move.take_all()
        await fleet.more()
        await move.end()
        await gateways.until(lambda: _are_well(first, second), 30.0)
        await fleet.more()
        await fleet.quiet()
        assert set(fleet.statuses) == {200}
        assert await _shared(first, second, "after") and not await move.keys()
        assert await target.client.execute_command("CLUSTER", "COUNTKEYSINSLOT", redis_nodes.slot_of("default"))

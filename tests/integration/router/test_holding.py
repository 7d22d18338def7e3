"""Requests wait in the gateway while the KV cache of the endpoint that they want is full. The engines here hold 1,600 tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support import gateways, scripted_engine

# A thousand tokens: one fits, and two do not.
LONG = "word " * 800


@pytest.fixture
async def engine() -> AsyncIterator[scripted_engine.ScriptedEngine]:
    async with scripted_engine.ScriptedEngine() as started:
        yield started


def _ask(gateway: gateways.Running, name: str, **fields: object) -> asyncio.Task[str]:
    """A stream with a prompt of its own; its text."""

    async def asked() -> str:
        return (await gateway.chat(f"{name} {LONG}", stream=True, **fields)).text

    return asyncio.create_task(asked())


async def _held(gateway: gateways.Running) -> float:
    return await gateway.metric("penstock_gateway_held")


async def test_a_request_waits_until_there_is_room(engine: scripted_engine.ScriptedEngine) -> None:
    """The engine sees the second request only when the first has ended; meanwhile status and metrics say so."""
    gate = asyncio.Event()
    engine.behaviour = scripted_engine.stream(2, gate=gate)
    async with gateways.running(engine.url) as gateway:
        first = _ask(gateway, "first")
        await gateways.until(lambda: len(engine.received) == 1)
        second = _ask(gateway, "second")
        await gateways.until(lambda: _held(gateway))
        await gateways.until(lambda: _says(gateway, "saturated"))
        short = await gateway.client.get("/v1/models")
        assert len(engine.received) == 1
        gate.set()
        texts = await asyncio.gather(first, second)
        assert await _held(gateway) == 0
        assert await gateway.metric("penstock_gateway_holds_total") == 1
        assert await gateway.metric("penstock_gateway_hold_seconds_total") > 0
        await gateways.until(lambda: _says_nothing(gateway))
    assert short.status_code == 200
    assert all("[DONE]" in text for text in texts)
    assert len(engine.received) == 2


async def _says(gateway: gateways.Running, mode: str) -> bool:
    return any(mode in line for line in (await gateway.admin.get("/debug/state")).json()["degraded"])


async def _says_nothing(gateway: gateways.Running) -> bool:
    return not (await gateway.admin.get("/debug/state")).json()["degraded"]


async def test_a_short_prompt_goes_where_a_long_one_waits(engine: scripted_engine.ScriptedEngine) -> None:
    """What fits into the room that is left does not wait for what does not."""
    gate = asyncio.Event()
    engine.behaviour = scripted_engine.stream(2, gate=gate)
    async with gateways.running(engine.url) as gateway:
        first = _ask(gateway, "first")
        await gateways.until(lambda: len(engine.received) == 1)
        second = _ask(gateway, "second")
        await gateways.until(lambda: _held(gateway))
        short = asyncio.create_task(gateway.chat("short", stream=True))
        await gateways.until(lambda: len(engine.received) == 2)
        assert b"short" in engine.received[1].body
        gate.set()
        await asyncio.gather(first, second, short)


async def test_a_client_that_leaves_is_not_sent(engine: scripted_engine.ScriptedEngine) -> None:
    """A held request whose client is gone never reaches an engine."""
    gate = asyncio.Event()
    engine.behaviour = scripted_engine.stream(2, gate=gate)
    async with gateways.running(engine.url) as gateway:
        first = _ask(gateway, "first")
        await gateways.until(lambda: len(engine.received) == 1)
        second = _ask(gateway, "second")
        await gateways.until(lambda: _held(gateway))
        second.cancel()
        await gateways.until(lambda: _nobody(gateway))
        gate.set()
        await first
        third = await _ask(gateway, "third")
    assert "[DONE]" in third
    assert [received.json()["messages"][0]["content"].split()[0] for received in engine.received] == ["first", "third"]


async def _nobody(gateway: gateways.Running) -> bool:
    return await _held(gateway) == 0


async def test_the_wait_has_an_end(engine: scripted_engine.ScriptedEngine) -> None:
    """After `limits.hold_s` a request is sent whether there is room or not."""
    gate = asyncio.Event()
    engine.behaviour = scripted_engine.stream(2, gate=gate)
    async with gateways.running(engine.url, limits={"hold_s": 0.3}) as gateway:
        both = [_ask(gateway, "first"), _ask(gateway, "second")]
        await gateways.until(lambda: len(engine.received) == 2)
        gate.set()
        await asyncio.gather(*both)
        assert await gateway.metric("penstock_gateway_holds_total") == 1


async def test_a_stream_that_stands_still_does_not_fill_the_cache(engine: scripted_engine.ScriptedEngine) -> None:
    """The time of a stream that brings nothing (its client reads slowly) is no measure of what it generates."""
    gate = asyncio.Event()
    engine.behaviour = scripted_engine.stream(2, gate=gate)
    async with gateways.running(engine.url) as gateway:
        first = asyncio.create_task(gateway.chat("short", stream=True))
        await gateways.until(lambda: len(engine.received) == 1)
        # By now it would have 250 tokens, at the time per token that is assumed; room is for 180 beside the next one.
        await asyncio.sleep(2.5)
        second = asyncio.create_task(gateway.chat("word " * 1_130, stream=True))
        await gateways.until(lambda: len(engine.received) == 2)
        gate.set()
        await asyncio.gather(first, second)
        assert await gateway.metric("penstock_gateway_holds_total") == 0


@pytest.mark.parametrize("settings", [{"limits": {"kv_share": 0}}, {"policy": "least-request"}])
async def test_nobody_waits_where_it_is_off(
    engine: scripted_engine.ScriptedEngine, settings: dict[str, object]
) -> None:
    """With a share of 0, and under other profiles, everything is sent at once."""
    gate = asyncio.Event()
    engine.behaviour = scripted_engine.stream(2, gate=gate)
    async with gateways.running(engine.url, **settings) as gateway:
        asked = [_ask(gateway, str(number)) for number in range(3)]
        await gateways.until(lambda: len(engine.received) == 3)
        gate.set()
        await asyncio.gather(*asked)
        assert await gateway.metric("penstock_gateway_holds_total") == 0


async def test_requests_that_wait_for_an_engine_that_dies_are_refused(engine: scripted_engine.ScriptedEngine) -> None:
    """Where no endpoint is left, who waits gets the same answer as whoever comes."""
    gate = asyncio.Event()
    engine.behaviour = scripted_engine.stream(2, gate=gate)
    async with gateways.running(engine.url) as gateway:
        first = _ask(gateway, "first")
        await gateways.until(lambda: len(engine.received) == 1)
        second = asyncio.create_task(gateway.chat(f"second {LONG}"))
        await gateways.until(lambda: _held(gateway))
        await engine.stop()
        answer = await second
        await first
    assert answer.status_code in (502, 503)
    assert answer.json()["error"]["code"] in ("no_ready_endpoint", "upstream_failed")

"""What the gateway does when engines fail: the rules of router/dataplane/exchange.py, one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support import gateways, scripted_engine


@pytest.fixture
async def engines() -> AsyncIterator[list[scripted_engine.ScriptedEngine]]:
    started = [scripted_engine.ScriptedEngine() for _ in range(2)]
    for engine in started:
        await engine.start()
    yield started
    for engine in started:
        await engine.stop()


async def test_break_before_the_first_byte_is_tried_elsewhere(engines: list[scripted_engine.ScriptedEngine]) -> None:
    """A request whose engine breaks before it answered is answered by another, and the first takes none until it lives."""
    engines[0].behaviour = scripted_engine.break_connection
    async with gateways.running(*(engine.url for engine in engines)) as gateway:
        answers = [await gateway.chat(f"prompt {number}") for number in range(6)]
        retries = await gateway.metric("penstock_gateway_retries_total")
        # It lives: a probe lets it in again.
        engines[0].behaviour = scripted_engine.answer("back")
        await gateways.until(lambda: _all_ok(gateway), what="the endpoint's return")
    assert [answer.status_code for answer in answers] == [200] * 6
    assert {answer.headers["x-penstock-endpoint"] for answer in answers} == {f"127.0.0.1-{engines[1].port}"}
    assert 1 <= retries <= len(engines[0].received) + 1


async def _all_ok(gateway: gateways.Running) -> bool:
    rows = (await gateway.admin.get("/debug/endpoints")).json()["endpoints"]
    return all(row["health"] == "ok" for row in rows)


async def test_head_alone_is_not_yet_an_answer(engines: list[scripted_engine.ScriptedEngine]) -> None:
    """An engine that sent its head and then broke is replaced: the client had no byte yet."""

    async def head_only(received: scripted_engine.Received) -> None:
        received.writer.write(scripted_engine.STREAM_HEAD)
        await received.writer.drain()
        received.writer.transport.abort()

    engines[0].behaviour = head_only
    engines[1].behaviour = scripted_engine.stream(2)
    async with gateways.running(*(engine.url for engine in engines)) as gateway:
        answers = [await gateway.chat(f"{number}", stream=True) for number in range(4)]
    assert all("[DONE]" in answer.text and "error" not in answer.text for answer in answers)


async def test_break_in_mid_stream_ends_with_an_error_event(engines: list[scripted_engine.ScriptedEngine]) -> None:
    """A stream that breaks after its first word ends with an error event and a whole body, never in silence."""
    engines[0].behaviour = engines[1].behaviour = scripted_engine.stream(3, end=False)
    async with gateways.running(*(engine.url for engine in engines)) as gateway:
        answer = await gateway.chat(stream=True)
        cut = await gateway.metric("penstock_gateway_cut_streams_total")
    events = [line for line in answer.text.split("\n\n") if line]
    assert "w0" in events[0]
    assert '"code":"upstream_failed"' in events[-2]
    assert "incomplete" in events[-2]
    assert events[-1] == "data: [DONE]"
    assert cut == 1


@pytest.mark.parametrize("done", [True, False])
async def test_stream_without_framing_is_whole_only_with_its_last_event(
    engines: list[scripted_engine.ScriptedEngine], done: bool
) -> None:
    """Where the end of the connection is the only framing, a stream that did not say [DONE] ends with an error event."""

    async def until_close(received: scripted_engine.Received) -> None:
        received.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        received.writer.write(scripted_engine.event("w0 ") + (b"data: [DONE]\n\n" if done else b""))
        await received.writer.drain()
        received.writer.close()

    for engine in engines:
        engine.behaviour = until_close
    async with gateways.running(*(engine.url for engine in engines)) as gateway:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        answer = await gateway.client.post("/v1/chat/completions", json=body)
        cut = await gateway.metric("penstock_gateway_cut_streams_total")
        ejected = await gateway.metric("penstock_gateway_ejections_total")
    events = [line for line in answer.text.split("\n\n") if line]
    assert "w0" in events[0]
    assert events[-1] == "data: [DONE]"
    assert ("upstream_failed" in events[-2]) is not done
    assert (cut, ejected) == (0 if done else 1, 0)


async def test_all_engines_down_is_an_error_in_openais_shape(engines: list[scripted_engine.ScriptedEngine]) -> None:
    """With every engine gone the client gets 502 or 503, soon, and readiness says so."""
    async with gateways.running(*(engine.url for engine in engines)) as gateway:
        for engine in engines:
            await engine.stop()
        first = await gateway.chat()
        second = await gateway.chat()
        ready = await gateway.client.get("/readyz")
        itself = await gateway.client.get("/readyz", params={"exclude": "endpoints"})
    assert first.status_code == 502
    assert second.status_code == 503
    assert second.headers["retry-after"] == "1"
    assert second.json()["error"]["code"] == "no_ready_endpoint"
    assert ready.status_code == 503
    assert itself.status_code == 200, "the gateway itself is well: Kubernetes must not take it away"


async def test_kept_connection_that_closed_is_no_failure(engines: list[scripted_engine.ScriptedEngine]) -> None:
    """An engine that closes a kept connection as we use it gets the request again on a new one."""
    closed = asyncio.Event()

    async def once_then_close(received: scripted_engine.Received) -> None:
        await scripted_engine.answer()(received)
        if not closed.is_set():
            closed.set()
            # The next request on this connection meets a closed door.
            engines[0].behaviour = close_first

    async def close_first(received: scripted_engine.Received) -> None:
        engines[0].behaviour = scripted_engine.answer("again")
        received.writer.transport.abort()

    engines[0].behaviour = once_then_close
    async with gateways.running(engines[0].url) as gateway:
        first = await gateway.chat()
        second = await gateway.chat()
        ejections = await gateway.metric("penstock_gateway_ejections_total")
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.json()["choices"][0]["message"]["content"] == "again"
    assert ejections == 0


async def test_invalid_answer_is_not_relayed(engines: list[scripted_engine.ScriptedEngine]) -> None:
    """An answer whose framing is ambiguous is refused and the request tried elsewhere."""

    async def ambiguous(received: scripted_engine.Received) -> None:
        received.writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        await received.writer.drain()

    engines[0].behaviour = ambiguous
    async with gateways.running(*(engine.url for engine in engines)) as gateway:
        answers = [await gateway.chat(str(number)) for number in range(4)]
    assert all(answer.status_code == 200 and answer.json() for answer in answers)


async def test_hung_engine_is_left(engines: list[scripted_engine.ScriptedEngine]) -> None:
    """An engine that neither answers requests nor probes is given up, and its requests go elsewhere."""
    engines[0].behaviour = scripted_engine.never
    async with gateways.running(*(engine.url for engine in engines), limits={"silence_s": 0.5}) as gateway:
        engines[0].healthy = False
        answers = await asyncio.gather(*(gateway.chat(f"prompt {number}") for number in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert engines[0].received


async def test_silent_but_healthy_engine_is_kept(engines: list[scripted_engine.ScriptedEngine]) -> None:
    """A long prefill is not a hang: an engine that answers probes keeps its request."""
    release = asyncio.Event()

    async def slow(received: scripted_engine.Received) -> None:
        await release.wait()
        await scripted_engine.answer("late")(received)

    engines[0].behaviour = slow
    async with gateways.running(engines[0].url, limits={"silence_s": 0.25}) as gateway:
        request = asyncio.create_task(gateway.chat())
        await asyncio.wait_for(engines[0].arrived.wait(), 5)
        await asyncio.sleep(2.0)
        release.set()
        answer = await request
    assert answer.json()["choices"][0]["message"]["content"] == "late"


async def test_first_byte_timeout_is_504(engines: list[scripted_engine.ScriptedEngine]) -> None:
    """An engine that lives and never answers ends in a timeout that says so."""
    engines[0].behaviour = scripted_engine.never
    async with gateways.running(engines[0].url, limits={"first_byte_timeout_s": 0.5}) as gateway:
        answer = await gateway.chat()
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "upstream_timeout"


async def test_stopping_gateway_answers_on_open_connections(engines: list[scripted_engine.ScriptedEngine]) -> None:
    """Who has a connection to a stopping gateway gets one more answer there, which says that the connection closes."""
    gate = asyncio.Event()
    engines[0].behaviour = scripted_engine.stream(3, gate=gate)

    async def ask_late() -> httpx.Response:
        await gateways.until(lambda: draining(gateway))
        gate.set()
        return await gateway.chat()

    async with gateways.running(engines[0].url) as gateway:
        held = asyncio.create_task(gateway.chat(stream=True))
        await asyncio.wait_for(engines[0].arrived.wait(), 5)
        engines[0].behaviour = scripted_engine.answer()
        assert "connection" not in (await gateway.chat()).headers
        late = asyncio.create_task(ask_late())
    assert (await late).status_code == 200
    assert (await late).headers["connection"] == "close"
    assert "[DONE]" in (await held).text


async def draining(gateway: gateways.Running) -> bool:
    """Whether the gateway says that it is stopping."""
    return (await gateway.admin.get("/readyz?exclude=endpoints")).status_code == 503


async def test_stopping_gateway_finishes_streams(engines: list[scripted_engine.ScriptedEngine]) -> None:
    """A gateway that stops takes no new connection and lets the streams it has finish."""
    gate = asyncio.Event()
    engines[0].behaviour = scripted_engine.stream(3, gate=gate)
    async with gateways.running(engines[0].url) as gateway:
        request = asyncio.create_task(gateway.chat(stream=True))
        await asyncio.wait_for(engines[0].arrived.wait(), 5)
        asyncio.get_running_loop().call_later(0.3, gate.set)
    answer = await request
    assert "[DONE]" in answer.text

"""The gateway's front keeps its shape under requests that no honest client sends."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import fuzz_front, fuzz_requests
from tests.support import gateways, scripted_engine


async def test_three_thousand_mutated_requests_leave_no_trace() -> None:
    """Mutated requests end in no traceback, no hang, no misframed answer, nothing smuggled, no load and no socket left."""
    report = await fuzz_front.run(seed=3, requests=3_000, concurrency=64)
    assert report.problems == []
    assert report.requests >= 3_000
    # The run has looked at both sides: requests that were served, and requests that were refused.
    assert report.forwarded > 300
    assert report.statuses[200] > 300
    assert report.statuses[400] > 100


def test_the_same_seed_plays_the_same_bytes() -> None:
    """A problem that a run names can be played again."""
    assert [fuzz_requests.plan(5, number) for number in range(50)] == [
        fuzz_requests.plan(5, number) for number in range(50)
    ]
    assert fuzz_requests.plan(5, 1) != fuzz_requests.plan(6, 1)


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-len",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\ngarbage\r\n\r\n",
    ],
)
def test_the_check_sees_a_misframed_answer(received: bytes) -> None:
    """What the fuzzer takes for a sound answer is not just anything."""
    with pytest.raises(ValueError):
        list(fuzz_front.answers(received))


@pytest.mark.parametrize(
    "said",
    [
        b"x-smuggled: 1\r\nhost: a\r\nx-request-id: b\r\ncontent-length: 2",
        b"host: a\nx: y\r\nx-request-id: b\r\ncontent-length: 2",
        b"host: a\r\nx-request-id: b\r\ncontent-length: 2\r\ncontent-length: 2",
        b"host: a\r\nx-request-id: b\r\ncontent-length: 1",
        b"host: a\r\nx-request-id: b\r\ncontent-length: 2\r\ntransfer-encoding: chunked",
    ],
)
async def test_the_fuzzers_engine_sees_what_is_smuggled(said: bytes) -> None:
    """An engine behind the fuzzed gateway notes a header or a length that must not be there."""
    report = fuzz_front.Report()
    server = await asyncio.get_running_loop().create_server(lambda: fuzz_front.Engine(report), "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"POST /v1/completions HTTP/1.1\r\n" + said + b"\r\n\r\n{}")
        await gateways.until(lambda: report.problems)
        writer.close()


BODY = b'{"model":"m","prompt":"x"}'
HOT = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


async def test_hot_request_behind_a_cold_one_does_not_hang() -> None:
    """A hot request pipelined behind another path ends with the answer to the first and a closed connection, not in silence."""
    engine = scripted_engine.ScriptedEngine()
    await engine.start()
    async with gateways.running(engine.url) as gateway:
        raw = await gateway.raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" + HOT, until_close=True)
    await engine.stop()
    assert raw.startswith(b"HTTP/1.1 200")
    assert raw.endswith(b'{"status":"ok"}')


async def test_answer_on_its_way_survives_garbage_behind_the_request() -> None:
    """A request that was sound is answered even where what follows it, or an upgrade that it offers, is not taken."""
    engine = scripted_engine.ScriptedEngine()
    await engine.start()
    upgrade = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAM\r\n\r\n"
    async with gateways.running(engine.url) as gateway:
        garbage = await gateway.raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n\x00\x01", until_close=True)
        offered = await gateway.raw(upgrade, until_close=True)
    await engine.stop()
    assert (garbage[:12], offered[:12]) == (b"HTTP/1.1 200", b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "line", [b"POST /v1/completions\n", b"POST /v1/completions HTTP/0.9\r\n", b"POST /v1/completions HTTP/2.0\r\n"]
)
async def test_other_versions_are_refused(line: bytes) -> None:
    """A request line without a version, or with another one, is refused: its next line must not become a header."""
    engine = scripted_engine.ScriptedEngine()
    await engine.start()
    async with gateways.running(engine.url) as gateway:
        raw = await gateway.raw(
            line + b"x-next: 1\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY), until_close=True
        )
    await engine.stop()
    assert raw.startswith(b"HTTP/1.1 400")
    assert not engine.received


async def test_trailers_do_not_become_headers() -> None:
    """What a client sends behind a chunked body is not taken for a header, by us or by the engine."""
    engine = scripted_engine.ScriptedEngine()
    await engine.start()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    trailers = b"0\r\nx-late: 1\r\nx-penstock-policy: nope\r\nx-request-id: late\r\n\r\n"
    async with gateways.running(engine.url) as gateway:
        raw = await gateway.raw(head + scripted_engine.chunk(BODY) + trailers, until_close=True)
    await engine.stop()
    assert raw.startswith(b"HTTP/1.1 200")
    assert b"x-late" not in engine.received[0].headers
    assert engine.received[0].headers[b"x-request-id"] != b"late"


async def test_endless_trailers_are_refused() -> None:
    """Trailers are bounded as a head is: a client cannot make the gateway collect them without end."""
    engine = scripted_engine.ScriptedEngine()
    await engine.start()
    async with gateways.running(engine.url, limits={"max_head_bytes": 2_000}) as gateway:
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ")
        async with asyncio.timeout(10):
            answered = asyncio.create_task(reader.read(12))
            while not answered.done():
                writer.write(b"a" * 1_000)
                await writer.drain()
                await asyncio.sleep(0.001)
        writer.close()
    await engine.stop()
    assert answered.result() == b"HTTP/1.1 431"


@pytest.mark.parametrize("place", ["tools", "content", "tool_calls"])
async def test_deep_nesting_is_a_bad_request(place: str) -> None:
    """JSON that can be read and not be written again is the client's mistake, named, also for a request that waits its turn."""
    deep = b"[" * 300 + b"]" * 300
    message = {
        "tools": b'{"role":"user","content":"x"}',
        "content": b'{"role":"user","content":[{"a":%b}]}' % deep,
        "tool_calls": b'{"role":"user","content":"x","tool_calls":%b}' % deep,
    }[place]
    body = b'{"model":"m","messages":[%b]%b}' % (message, b',"tools":' + deep if place == "tools" else b"")
    engine = scripted_engine.ScriptedEngine()
    await engine.start()
    chat = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    async with gateways.running(engine.url) as gateway:
        raw = await gateway.raw(HOT + chat, until_close=True)
    await engine.stop()
    assert raw.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 400" in raw
    assert place.encode() in raw[raw.find(b"HTTP/1.1 400") :]
    assert b"nested too deeply" in raw


async def test_body_of_a_cold_request_that_never_comes_is_timed_out() -> None:
    """A body that is announced and not sent ends the connection after the time for a request, also on a path that is not hot."""
    engine = scripted_engine.ScriptedEngine()
    await engine.start()
    cold = b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n{"
    async with gateways.running(engine.url, limits={"body_timeout_s": 0.5}) as gateway:
        raw = await gateway.raw(HOT + cold, until_close=True)
    await engine.stop()
    assert raw.count(b"HTTP/1.1 200") == 1
    assert raw.count(b"HTTP/1.1 408") <= 1

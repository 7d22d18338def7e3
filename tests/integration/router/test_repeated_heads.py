"""Requests of one connection whose heads are alike are read without the parser, and mean the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from router.dataplane import heads
from tests.support import gateways, scripted_engine

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n%bContent-Length: %d\r\nx-tag: a\r\n\r\n"


def request(prompt: str, headers: bytes = b"") -> bytes:
    body = b'{"model":"m","prompt":"%b"}' % prompt.encode()
    return HEAD % (headers, len(body)) + body


@pytest.fixture
async def engine() -> AsyncIterator[scripted_engine.ScriptedEngine]:
    async def echo(received: scripted_engine.Received) -> None:
        await scripted_engine.answer(str(received.json()["prompt"]))(received)

    started = scripted_engine.ScriptedEngine()
    started.behaviour = echo
    await started.start()
    yield started
    await started.stop()


async def said(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Status line and body of one answer."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10.0)
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    return head.partition(b"\r\n")[0], await reader.readexactly(length)


@pytest.mark.parametrize("cut", ["whole", "head-apart", "three", "in-the-head"])
async def test_bodies_of_any_length_and_split(engine: scripted_engine.ScriptedEngine, cut: str) -> None:
    """Each request of a connection has its own body, however its bytes arrive."""
    async with gateways.running(engine.url) as gateway:
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
        for number in range(12):
            prompt = f"p{number}-" + "y" * (7**number % 30_000)
            data = request(prompt)
            edge = data.index(b"\r\n\r\n") + 4
            edges = {"whole": [], "head-apart": [edge], "three": [edge + 5, edge + 9], "in-the-head": [20]}[cut]
            for start, end in zip([0, *edges], [*edges, len(data)], strict=True):
                writer.write(data[start:end])
                await writer.drain()
                # The gateway has read what is on the wire once it has answered on another connection.
                await gateway.client.get("/healthz")
            status, body = await said(reader)
            assert status == b"HTTP/1.1 200 OK"
            assert b'"%b"' % prompt.encode() in body
        writer.close()


async def test_other_head_in_between(engine: scripted_engine.ScriptedEngine) -> None:
    """A head that differs is read as what it is: other headers, another path, an error."""
    async with gateways.running(engine.url) as gateway:
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
        for number, (headers, expected) in enumerate([
            (b"", b"200"), (b"", b"200"), (b"x-penstock-policy: nope\r\n", b"400"), (b"", b"200"),
            (b"x-request-id: mine\r\n", b"200"), (b"x-request-id: mine\r\n", b"200"), (b"", b"200"),
        ]):  # fmt: skip
            writer.write(request(f"p{number}", headers))
            status, _ = await said(reader)
            assert status.split()[1] == expected
        assert [each.headers.get(b"x-request-id") == b"mine" for each in engine.received] == [False] * 3 + [
            True
        ] * 2 + [False]
        writer.close()


async def test_requests_behind_a_repeated_one(engine: scripted_engine.ScriptedEngine) -> None:
    """What comes in one read with the end of a repeated request is the next request."""
    async with gateways.running(engine.url) as gateway:
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
        writer.write(request("p0"))
        await said(reader)
        long = request("p1-" + "z" * 5_000)
        writer.write(long[:2_000])
        await gateway.client.get("/healthz")
        writer.write(long[2_000:] + request("p2") + request("p3"))
        for number in (1, 2, 3):
            assert b'"p%d' % number in (await said(reader))[1]
        writer.close()


async def test_too_large_after_a_repeated_head(engine: scripted_engine.ScriptedEngine) -> None:
    """The limit of a body holds for a head that is known."""
    async with gateways.running(engine.url) as gateway:
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
        writer.write(request("p0"))
        await said(reader)
        writer.write(HEAD % (b"", 1 << 40))
        assert (await said(reader))[0].split()[1] == b"413"
        writer.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nx: content-length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nx-content-length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5 \r\n\r\n",
        b"POST / HTTP/1.1\ncontent-length: 5\n\nx\r\ncontent-length: 5\r\n\r\n",
    ],
)
def test_heads_that_are_never_taken_as_known(raw: bytes) -> None:
    """A head in which the length is not plainly one number of one header is parsed every time."""
    prepared = heads.prepare([], heads.Keys({}))
    assert heads.repeated(raw, b"/", prepared) is None


def test_digits_of_a_known_head() -> None:
    """Only digits stand for the length, and what follows them must be the same."""
    known = heads.repeated(
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\na: b\r\n\r\n", b"/", heads.prepare([], heads.Keys({}))
    )
    assert known is not None
    start = b"POST / HTTP/1.1\r\nContent-Length: "
    assert known.match(start + b"77\r\na: b\r\n\r\nrest")
    assert (known.length, known.body_at) == (77, len(start) + 2 + 10)
    for other in (
        b"\r\na: b\r\n\r\n",
        b"+7\r\na: b\r\n\r\n",
        b"7\r\na: c\r\n\r\n",
        b"7 \r\na: b\r\n\r\n",
        b"7" * 19 + b"\r\na: b\r\n\r\n",
        b"7",
    ):
        assert not known.match(start + other)

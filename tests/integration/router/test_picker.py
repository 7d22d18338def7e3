"""The endpoint picker as an Envoy asks it: over a real gRPC stream per request."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import aio

from penstock.api.proto import ext_proc_pb2 as ext_proc
from penstock.api.proto import ext_proc_pb2_grpc
from penstock.runtime import processes
from router.server import picker
from tests.support import gateways, scripted_engine

LONG = "word " * 800


class Envoy:
    """One request's stream, with what Envoy sends."""

    def __init__(self, channel: aio.Channel, *, duplex: bool = False, subset: str = "") -> None:
        self._call: Any = ext_proc_pb2_grpc.ExternalProcessorStub(channel).Process()  # type: ignore[no-untyped-call]
        self._duplex, self._subset = duplex, subset

    async def head(self, path: str = "/v1/chat/completions", *, ends: bool = False, **headers: str) -> None:
        """The request's head."""
        found = {":path": path, ":method": "POST", **{name.replace("_", "-"): value for name, value in headers.items()}}
        message = ext_proc.ProcessingRequest(request_headers=_headers(found, ends))
        mode = ext_proc.FULL_DUPLEX_STREAMED if self._duplex else ext_proc.BUFFERED
        message.protocol_config.request_body_mode = mode
        message.protocol_config.response_body_mode = ext_proc.STREAMED
        if self._subset:
            hint = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
            hint.update({"x-gateway-destination-endpoint-subset": self._subset})
        await self._call.write(message)

    async def body(self, data: bytes, *, ends: bool = True) -> None:
        """A piece of the request's body."""
        body = ext_proc.HttpBody(body=data, end_of_stream=ends)
        await self._call.write(ext_proc.ProcessingRequest(request_body=body))

    async def answer(self, *, status: str = "200", usage: bool = True) -> None:
        """The engine's answer passes by."""
        await self._call.write(ext_proc.ProcessingRequest(response_headers=_headers({":status": status}, False)))
        assert (await self.read()).WhichOneof("response") == "response_headers"
        told = {"usage": {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42}} if usage else {}
        data = json.dumps({"choices": [], **told}).encode()
        body = ext_proc.HttpBody(body=data, end_of_stream=True)
        await self._call.write(ext_proc.ProcessingRequest(response_body=body))
        assert (await self.read()).WhichOneof("response") == "response_body"
        await self._call.done_writing()
        assert await self._call.read() is aio.EOF

    async def read(self) -> ext_proc.ProcessingResponse:
        """The next response."""
        found: ext_proc.ProcessingResponse = await asyncio.wait_for(self._call.read(), 10)
        return found

    async def choice(self, content: str = "hi", **fields: Any) -> ext_proc.ProcessingResponse:
        """Head and body of a chat; the response to the body."""
        await self.head()
        assert (await self.read()).WhichOneof("response") == "request_headers"
        await self.body(chat(content, **fields))
        return await self.read()

    def leave(self) -> None:
        """The client is gone."""
        self._call.cancel()


def _headers(found: dict[str, str], ends: bool) -> ext_proc.HttpHeaders:
    listed = [ext_proc.HeaderValue(key=name, raw_value=value.encode()) for name, value in found.items()]
    return ext_proc.HttpHeaders(headers=ext_proc.HeaderMap(headers=listed), end_of_stream=ends)


def chat(content: str, **fields: Any) -> bytes:
    """A chat's body."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **fields}).encode()


def destination(response: ext_proc.ProcessingResponse) -> str:
    """Where the request goes; header and metadata say the same."""
    body = response.request_body if response.HasField("request_body") else response.request_headers
    [option] = body.response.header_mutation.set_headers
    assert option.header.key == picker.DESTINATION
    found: str = option.header.raw_value.decode()
    assert response.dynamic_metadata["envoy.lb"] == {picker.DESTINATION: found}
    assert body.response.clear_route_cache
    return found


@pytest.fixture
async def engines() -> AsyncIterator[list[scripted_engine.ScriptedEngine]]:
    started = [scripted_engine.ScriptedEngine() for _ in range(2)]
    for engine in started:
        await engine.start()
    yield started
    for engine in started:
        await engine.stop()


@pytest.fixture
async def asked(
    engines: list[scripted_engine.ScriptedEngine],
) -> AsyncIterator[tuple[gateways.Running, aio.Channel]]:
    """A gateway with a picker, and a channel to it."""
    port = processes.free_port()
    async with (
        gateways.running(*(engine.url for engine in engines), picker={"port": port}) as gateway,
        aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        await gateways.until(lambda: _both(gateway))
        yield gateway, channel


async def _both(gateway: gateways.Running) -> bool:
    rows = (await gateway.admin.get("/debug/endpoints")).json()["endpoints"]
    return len(rows) == 2 and all(row["health"] == "ok" for row in rows)


async def _inflight(gateway: gateways.Running) -> float:
    return await gateway.metric("penstock_gateway_endpoint_inflight")


async def _idle(gateway: gateways.Running) -> bool:
    return await _inflight(gateway) == 0


async def test_a_prefix_stays_where_it_was_computed(
    asked: tuple[gateways.Running, aio.Channel], engines: list[scripted_engine.ScriptedEngine]
) -> None:
    """The body decides: requests with one prefix get one endpoint, in flight until their answer has passed."""
    gateway, channel = asked
    places = set()
    for number in range(4):
        envoy = Envoy(channel)
        places.add(destination(await envoy.choice(f"{LONG} {number}")))
        assert await _inflight(gateway) == 1
        await envoy.answer()
        await gateways.until(lambda: _idle(gateway))
    assert len(places) == 1 and places <= {f"127.0.0.1:{engine.port}" for engine in engines}
    assert await gateway.metric("penstock_gateway_answers_total") == 4


async def test_load_is_spread(asked: tuple[gateways.Running, aio.Channel]) -> None:
    """What is in flight by the picker counts: unlike prompts go to both endpoints."""
    gateway, channel = asked
    streams = [Envoy(channel) for _ in range(4)]
    places = [
        destination(await envoy.choice(f"{number} {'other words ' * 90}")) for number, envoy in enumerate(streams)
    ]
    assert len(set(places)) == 2
    for envoy in streams:
        envoy.leave()
    await gateways.until(lambda: _idle(gateway))


async def test_a_streamed_body_comes_back_as_it_went(asked: tuple[gateways.Running, aio.Channel]) -> None:
    """In full duplex the head waits for the whole body, and the body is given back in pieces."""
    _, channel = asked
    envoy = Envoy(channel, duplex=True)
    body = chat("x" * 150_000)
    await envoy.head()
    await envoy.body(body[:70_000], ends=False)
    await envoy.body(body[70_000:])
    assert destination(await envoy.read())
    pieces = []
    while not pieces or not pieces[-1].end_of_stream:
        pieces.append((await envoy.read()).request_body.response.body_mutation.streamed_response)
    assert b"".join(piece.body for piece in pieces) == body
    assert max(len(piece.body) for piece in pieces) < 65_536
    await envoy.answer()


async def test_a_subset_is_kept_to(
    asked: tuple[gateways.Running, aio.Channel], engines: list[scripted_engine.ScriptedEngine]
) -> None:
    """Only endpoints that the proxy allows are chosen; where there is none, the client gets 503."""
    _, channel = asked
    for engine in engines:
        only = f"127.0.0.1:{engine.port}"
        envoy = Envoy(channel, subset=f"10.0.0.1:1, {only}")
        assert destination(await envoy.choice("hi")) == only
        envoy.leave()
    refused = await Envoy(channel, subset="10.0.0.1:1").choice("hi")
    assert refused.immediate_response.status.code == 503


async def test_a_request_without_a_body_goes_anywhere(asked: tuple[gateways.Running, aio.Channel]) -> None:
    """The list of models is answered by any ready endpoint."""
    _, channel = asked
    envoy = Envoy(channel)
    await envoy.head("/v1/models", ends=True)
    assert destination(await envoy.read())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_request"),
        (chat("hi", stream="yes"), 400, "bad_request"),
        (chat("hi", model="nobody"), 404, "model_not_found"),
    ],
)
async def test_errors_have_the_shape_of_openai(
    asked: tuple[gateways.Running, aio.Channel], body: bytes, status: int, code: str
) -> None:
    """What cannot be routed is answered at once, as the gateway itself does, and nothing stays in flight."""
    gateway, channel = asked
    envoy = Envoy(channel)
    await envoy.head()
    await envoy.read()
    await envoy.body(body)
    refused = (await envoy.read()).immediate_response
    assert refused.status.code == status
    assert json.loads(refused.body)["error"]["code"] == code
    assert await _inflight(gateway) == 0
    assert await gateway.metric("penstock_gateway_refusals_total") == 1


async def test_who_waits_for_room_is_told_when_there_is(engines: list[scripted_engine.ScriptedEngine]) -> None:
    """Requests that the gateway holds are held here too: the choice comes when the one before has ended."""
    port = processes.free_port()
    async with (
        gateways.running(engines[0].url, picker={"port": port}) as gateway,
        aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        first, second = Envoy(channel), Envoy(channel)
        destination(await first.choice(f"first {LONG}"))
        waiting = asyncio.create_task(second.choice(f"second {LONG}"))
        await gateways.until(lambda: gateway.metric("penstock_gateway_held"))
        assert not waiting.done()
        await first.answer()
        assert destination(await waiting)
        second.leave()


async def test_keys_are_asked_for(engines: list[scripted_engine.ScriptedEngine], tmp_path: Any) -> None:
    """Where API keys are configured, a request without one is refused here too."""
    port = processes.free_port()
    (tmp_path / "keys").write_text(f"team: {hashlib.sha256(b'secret-key-of-the-team').hexdigest()}\n")
    settings = {"picker": {"port": port}, "api_keys_file": str(tmp_path / "keys")}
    async with (
        gateways.running(engines[0].url, **settings),
        aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        refused = await Envoy(channel).choice("hi")
        assert refused.immediate_response.status.code == 401
        envoy = Envoy(channel)
        await envoy.head(authorization="Bearer secret-key-of-the-team")
        await envoy.read()
        await envoy.body(chat("hi"))
        assert destination(await envoy.read())


async def test_a_prefix_before_the_path_is_passed_over(asked: tuple[gateways.Running, aio.Channel]) -> None:
    """A route that takes a prefix away does so after it has asked: the request is read as what it will be."""
    envoy = Envoy(asked[1])
    await envoy.head("/teams/a/v1/chat/completions?x=1")
    await envoy.read()
    await envoy.body(chat("hi", model="nobody"))
    refused = await envoy.read()
    assert refused.immediate_response.status.code == 404 and b"nobody" in refused.immediate_response.body

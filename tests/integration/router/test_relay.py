"""The gateway relays what clients and engines say, on real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

import pytest

from router.policy import profiles
from tests.support import gateways, scripted_engine


@pytest.fixture
async def engine() -> AsyncIterator[scripted_engine.ScriptedEngine]:
    started = scripted_engine.ScriptedEngine()
    await started.start()
    yield started
    await started.stop()


async def test_unary_answer_is_relayed_with_endpoint_and_request_id(engine: scripted_engine.ScriptedEngine) -> None:
    """A whole answer comes through unchanged, with the endpoint and the request's id."""
    async with gateways.running(engine.url) as gateway:
        answer = await gateway.chat("hi", headers={"x-request-id": "mine-1"})
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "hello"
    assert answer.headers["x-penstock-endpoint"] == f"127.0.0.1-{engine.port}"
    assert answer.headers["x-request-id"] == "mine-1"
    assert engine.received[0].headers[b"x-request-id"] == b"mine-1"
    assert engine.received[0].json()["messages"] == [{"role": "user", "content": "hi"}]


async def test_stream_is_relayed_as_it_comes(engine: scripted_engine.ScriptedEngine) -> None:
    """The first word of a stream reaches the client before the engine has sent the second."""
    gate = asyncio.Event()
    engine.behaviour = scripted_engine.stream(5, gate=gate)
    async with gateways.running(engine.url) as gateway:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with gateway.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.aiter_lines()
            first = await anext(lines)
            assert "w0" in first
            gate.set()
            rest = [line async for line in lines if line]
    assert [json.loads(line[6:])["choices"][0]["delta"]["content"] for line in rest[:-1]] == [
        "w1 ",
        "w2 ",
        "w3 ",
        "w4 ",
    ]
    assert rest[-1] == "data: [DONE]"


async def test_http10_client_gets_a_stream_without_chunks(engine: scripted_engine.ScriptedEngine) -> None:
    """A client of HTTP/1.0 gets the payload itself and the end of the connection as its end."""
    engine.behaviour = scripted_engine.stream(2)
    body = b'{"model":"m","prompt":"x","stream":true}'
    async with gateways.running(engine.url) as gateway:
        raw = await gateway.raw(
            b"POST /v1/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body), until_close=True
        )
    head, _, payload = raw.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    words = [scripted_engine.event(word, text=True) for word in ("w0 ", "w1 ")]
    assert payload == b"".join(words) + b"data: [DONE]\n\n"


async def test_pipelined_requests_are_answered_in_order(engine: scripted_engine.ScriptedEngine) -> None:
    """Requests that are sent without waiting get their answers in the order in which they were sent."""

    async def echo(received: scripted_engine.Received) -> None:
        await scripted_engine.answer(str(received.json()["prompt"]))(received)

    engine.behaviour = echo
    requests = b""
    for number in range(5):
        body = b'{"model":"m","prompt":"p%d"}' % number
        close = b"connection: close\r\n" if number == 4 else b""
        requests += b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (
            close,
            len(body),
            body,
        )
    async with gateways.running(engine.url) as gateway:
        raw = await gateway.raw(requests, until_close=True)
    assert [raw.find(b'"content":"p%d"' % number) >= 0 for number in range(5)] == [True] * 5
    positions = [raw.find(b'"content":"p%d"' % number) for number in range(5)]
    assert positions == sorted(positions)


async def test_expect_continue_and_chunked_request_body(engine: scripted_engine.ScriptedEngine) -> None:
    """A client that waits for 100 Continue gets it; a chunked body reaches the engine with its length."""
    async with gateways.running(engine.url) as gateway:
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        body = b'{"model":"m","prompt":"x"}'
        writer.write(scripted_engine.chunk(body[:10]) + scripted_engine.chunk(body[10:]) + b"0\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert head.startswith(b"HTTP/1.1 200")
    assert engine.received[0].body == body
    assert engine.received[0].headers[b"content-length"] == str(len(body)).encode()


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (b"{", None, "not valid JSON"),
        (b"[]", None, "must be a JSON object"),
        (b'{"messages":[]}', "model", "'model' must be"),
        (b'{"model":"m"}', "messages", "'messages' must be"),
        (b'{"model":"m","messages":[{"content":"x"}]}', "messages[0].role", "must be a string"),
        (b'{"model":"m","messages":[{"role":"user","content":7}]}', "messages[0].content", "must be a string or"),
        (b'{"model":"m","messages":[{"role":"user"}],"stream":"yes"}', "stream", "must be true or false"),
        (b'{"model":"m","messages":[{"role":"user"}],"max_tokens":-1}', "max_tokens", "at least 0"),
    ],
)
async def test_bad_body_is_refused_with_its_field(
    engine: scripted_engine.ScriptedEngine, body: bytes, param: str | None, said: str
) -> None:
    """A body that cannot be served is answered 400 in OpenAI's shape, naming the field."""
    async with gateways.running(engine.url) as gateway:
        answer = await gateway.client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert said in error["message"]
    assert not engine.received


async def test_unknown_model_path_method_and_policy(engine: scripted_engine.ScriptedEngine) -> None:
    """What does not exist is named: 404 for a model or a path, 405 for a method, 400 for a policy with what is allowed."""
    async with gateways.running(engine.url) as gateway:
        model = await gateway.chat(model="other")
        path = await gateway.client.get("/v1/nothing")
        method = await gateway.client.get("/v1/chat/completions")
        policy = await gateway.chat(headers={"x-penstock-policy": "fastest"})
        served = await gateway.chat(headers={"x-penstock-policy": "round-robin"})
    assert (model.status_code, model.json()["error"]["code"]) == (404, "model_not_found")
    assert (path.status_code, path.json()["error"]["code"]) == (404, "not_found")
    assert method.status_code == 405
    assert policy.status_code == 400
    assert "allowed: aibrix, aibrix-preble, default" in policy.json()["error"]["message"]
    assert served.status_code == 200


@pytest.mark.parametrize("name", profiles.names())
async def test_every_profile_routes(engine: scripted_engine.ScriptedEngine, name: str) -> None:
    """A gateway with `--policy NAME` answers short and long prompts, streamed or not, and says what it decided."""
    async with gateways.running(engine.url, policy=name) as gateway:
        engine.behaviour = scripted_engine.stream(3)
        streamed = await gateway.chat("long " * 500, stream=True)
        engine.behaviour = scripted_engine.answer()
        answers = [await gateway.chat(content) for content in ("hi", "long " * 500, "long " * 500)]
        decisions = (await gateway.admin.get("/debug/decisions")).json()["decisions"]
    assert [streamed.status_code, *(answer.status_code for answer in answers)] == [200] * 4
    assert [decision["policy"] for decision in decisions] == [name] * 4


async def test_request_waits_until_its_first_byte(engine: scripted_engine.ScriptedEngine) -> None:
    """A stream counts as waiting until its first byte, as running until its end, and as placed from then on."""
    gate = asyncio.Event()
    engine.behaviour = scripted_engine.never
    async with gateways.running(engine.url, policy="ray") as gateway:

        async def load() -> tuple[int, int]:
            row = (await gateway.admin.get("/debug/endpoints")).json()["endpoints"][0]
            return row["waiting"], row["running"]

        silent = asyncio.create_task(gateway.chat("a " * 100, stream=True))
        await asyncio.wait_for(engine.arrived.wait(), 5)
        assert await load() == (1, 1)
        silent.cancel()
        await gateways.until(lambda: _is_zero(gateway, "penstock_gateway_endpoint_inflight"))
        assert await load() == (0, 0)
        engine.behaviour = scripted_engine.stream(2, gate=gate)
        body = {"model": "m", "messages": [{"role": "user", "content": "b"}], "stream": True}
        async with gateway.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            await anext(answer.aiter_raw())
            assert await load() == (0, 1)
            gate.set()
        await gateways.until(lambda: _is_zero(gateway, "penstock_gateway_endpoint_inflight"))
        assert await load() == (0, 0)
        await gateway.chat()
        decisions = (await gateway.admin.get("/debug/decisions")).json()["decisions"]
    trees = [decision["candidates"][0]["tree_tokens"] for decision in reversed(decisions)]
    assert trees[0] == 0 < trees[1] < trees[2]


async def test_ambiguous_framing_and_oversize_are_refused(engine: scripted_engine.ScriptedEngine) -> None:
    """Both length and chunks, a head too large, a body too large: refused, and the connection is closed."""
    async with gateways.running(engine.url, limits={"max_body_bytes": 2_000, "max_head_bytes": 2_000}) as gateway:
        both = await gateway.raw(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            until_close=True,
        )
        head = await gateway.raw(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 3_000 + b"\r\ncontent-length: 2\r\n\r\n{}",
            until_close=True,
        )
        body = await gateway.raw(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 3000\r\n\r\n", until_close=True
        )
        chunks = await gateway.raw(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            + scripted_engine.chunk(b"a" * 3_000),
            until_close=True,
        )
    assert both.startswith(b"HTTP/1.1 400")
    assert head.startswith(b"HTTP/1.1 431")
    assert body.startswith(b"HTTP/1.1 413")
    assert chunks.startswith(b"HTTP/1.1 413")
    assert not engine.received


async def test_refusal_reaches_a_client_that_goes_on_sending(engine: scripted_engine.ScriptedEngine) -> None:
    """A client that sends the whole of a body that is too large still gets the answer."""
    async with gateways.running(engine.url, limits={"max_body_bytes": 2_000}) as gateway:
        size = 8 << 20
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size
        answer = await gateway.raw(head + b"a" * size, until_close=True)
    assert answer.startswith(b"HTTP/1.1 413")
    assert answer.endswith(b"}")


async def test_client_that_leaves_ends_the_engines_work(engine: scripted_engine.ScriptedEngine) -> None:
    """When a client goes, its engine sees the end of the connection, and the load is given back."""
    engine.behaviour = scripted_engine.never
    async with gateways.running(engine.url) as gateway:
        request = asyncio.create_task(gateway.chat(stream=True))
        await asyncio.wait_for(engine.arrived.wait(), 5)
        assert await gateway.metric("penstock_gateway_endpoint_inflight") == 1
        request.cancel()
        await asyncio.wait_for(engine.left.wait(), 5)
        await gateways.until(lambda: _is_zero(gateway, "penstock_gateway_endpoint_inflight"))
        await gateways.until(lambda: _is_zero(gateway, "penstock_gateway_endpoint_queued_tokens"))


async def _is_zero(gateway: gateways.Running, name: str) -> bool:
    return await gateway.metric(name) == 0


async def test_slow_client_stops_the_engine_and_not_the_memory(engine: scripted_engine.ScriptedEngine) -> None:
    """A client that does not read makes the gateway stop reading: what an engine can send ahead is bounded."""
    sent = 0

    async def flood(received: scripted_engine.Received) -> None:
        nonlocal sent
        received.writer.transport.set_write_buffer_limits(high=1 << 16)
        received.writer.write(scripted_engine.STREAM_HEAD)
        for _ in range(4_000):
            received.writer.write(scripted_engine.chunk(b"x" * 16_384))
            await received.writer.drain()
            sent += 16_384
        received.writer.write(b"0\r\n\r\n")

    engine.behaviour = flood
    body = b'{"model":"m","prompt":"x","stream":true}'
    async with gateways.running(engine.url) as gateway:
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port, limit=1 << 16)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        stalled_at = sent
        total = 0
        while total < 4_000 * 16_384:
            total += len(await reader.read(1 << 20))
        writer.close()
    assert stalled_at < 32 << 20
    assert sent == 4_000 * 16_384


async def test_overload_is_503_with_retry_after(engine: scripted_engine.ScriptedEngine) -> None:
    """Above the bound of requests in flight a client is told to come again."""
    engine.behaviour = scripted_engine.never
    async with gateways.running(engine.url, limits={"max_inflight": 1}) as gateway:
        first = asyncio.create_task(gateway.chat())
        await asyncio.wait_for(engine.arrived.wait(), 5)
        second = await gateway.chat()
        first.cancel()
    assert second.status_code == 503
    assert second.headers["retry-after"] == "1"
    assert second.json()["error"]["code"] == "overloaded"


async def test_engines_429_keeps_its_status_and_gets_retry_after(engine: scripted_engine.ScriptedEngine) -> None:
    """An engine's own overload reaches the client, with a Retry-After where it gave none."""
    engine.behaviour = scripted_engine.answer(status="429 Too Many Requests")
    async with gateways.running(engine.url) as gateway:
        answer = await gateway.chat()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


async def test_api_key_is_needed_and_stays_here(
    engine: scripted_engine.ScriptedEngine, tmp_path: pytest.TempPathFactory
) -> None:
    """With keys configured, a request without a valid one is 401, and the key does not reach the engine."""
    keys = tmp_path / "keys"  # type: ignore[operator]
    keys.write_text(f"acme: {hashlib.sha256(b'k-1').hexdigest()}  # the first\n")
    async with gateways.running(engine.url, api_keys_file=keys) as gateway:
        without = await gateway.chat()
        wrong = await gateway.chat(headers={"authorization": "Bearer k-2"})
        right = await gateway.chat(headers={"authorization": "Bearer k-1"})
        models = await gateway.client.get("/v1/models")
    assert (without.status_code, wrong.status_code, models.status_code) == (401, 401, 401)
    assert without.json()["error"]["type"] == "authentication_error"
    assert right.status_code == 200
    assert b"authorization" not in engine.received[0].headers


async def test_tenants_do_not_share_prefixes(
    engine: scripted_engine.ScriptedEngine, tmp_path: pytest.TempPathFactory
) -> None:
    """The same prompt of another tenant is predicted as not cached."""
    keys = tmp_path / "keys"  # type: ignore[operator]
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b")}
    keys.write_text("".join(f"{name}: {digest}\n" for name, digest in digests.items()))
    async with gateways.running(engine.url, api_keys_file=keys) as gateway:
        for tenant in ("a", "a", "b"):
            await gateway.chat("x" * 4_000, headers={"authorization": f"Bearer {tenant}"})
        decisions = (await gateway.admin.get("/debug/decisions")).json()["decisions"]
    assert [decision["matched_tokens"] > 0 for decision in reversed(decisions)] == [False, True, False]


async def test_decisions_show_each_candidates_score(engine: scripted_engine.ScriptedEngine) -> None:
    """A request's decision can be read by its id, with every component of every candidate's score."""
    async with gateways.running(engine.url) as gateway:
        answer = await gateway.chat()
        found = await gateway.admin.get(f"/debug/decisions/{answer.headers['x-request-id']}")
        missing = await gateway.admin.get("/debug/decisions/nope")
        hidden = await gateway.client.get("/debug/decisions")
    attempt = found.json()["attempts"][0]
    assert attempt["endpoint"] == answer.headers["x-penstock-endpoint"]
    assert set(attempt["candidates"][0]) == {
        "endpoint",
        "wait_ms",
        "prefill_ms",
        "stream_ms",
        "stall_ms",
        "delay_ms",
        "evict_ms",
        "total",
    }
    assert missing.status_code == 404
    assert hidden.status_code == 404


async def test_models_health_and_metrics(engine: scripted_engine.ScriptedEngine) -> None:
    """The paths that are not hot answer on the same port."""
    async with gateways.running(engine.url) as gateway:
        await gateway.chat()
        models = (await gateway.client.get("/v1/models")).json()
        ready = await gateway.client.get("/readyz")
        text = (await gateway.client.get("/metrics")).text
    assert [model["id"] for model in models["data"]] == ["m"]
    assert ready.status_code == 200
    assert 'penstock_gateway_answers_total{code="200",model="m"} 1.0' in text
    assert 'penstock_gateway_prompt_tokens_total{model="m"} 20.0' in text

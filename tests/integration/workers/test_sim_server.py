"""The simulated worker over real sockets."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from workers.sim import server, settings

PROMPT = "the quick brown fox jumps over the lazy dog and runs away from here " * 4


@contextlib.asynccontextmanager
async def serving(**fields: Any) -> AsyncIterator[tuple[server.SimServer, httpx.AsyncClient]]:
    """A worker at a hundred times its speed, and a client of it."""
    worker = server.SimServer(settings.SimSettings(**({"model": "m", "speed": 100.0} | fields)))
    port = await worker.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield worker, client
    finally:
        await worker.stop()


def completion(**fields: Any) -> dict[str, Any]:
    """A request for eight tokens."""
    return {"model": "m", "prompt": PROMPT, "max_tokens": 8, "ignore_eos": True} | fields


async def events_of(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> list[Any]:
    """The events of a stream, parsed; the last must be [DONE], and is left out."""
    async with client.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200, await response.aread()
        lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def until(condition: Any, deadline_s: float = 10.0) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.005)


async def test_chat_through_the_openai_sdk() -> None:
    """The SDK gets streamed words, usage, and the sign that they are simulated."""
    async with serving() as (_, client):
        sdk = openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none")
        stream = await sdk.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert "simulated" in text
        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 20
        assert {chunk.system_fingerprint for chunk in chunks} == {"penstock-simulated"}
        await sdk.close()


async def test_cached_tokens_are_whole_blocks_of_the_shared_prefix() -> None:
    """The second equal prompt reports its full blocks as cached, but never the whole prompt."""
    async with serving() as (_, client):
        usages = [(await client.post("/v1/completions", json=completion())).json()["usage"] for _ in range(2)]
        tokens = usages[0]["prompt_tokens"]
        assert tokens == len(PROMPT.encode()) // 4
        assert [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages] == [
            0,
            (tokens - 1) // 16 * 16,
        ]


async def test_salt_and_adapter_do_not_share_blocks() -> None:
    """Another cache salt or another adapter finds nothing cached."""
    async with serving() as (_, client):
        await client.post("/v1/load_lora_adapter", json={"lora_name": "ad", "lora_path": "/a"})
        await client.post("/v1/completions", json=completion())
        for other in ({"cache_salt": "s"}, {"model": "ad"}):
            answer = (await client.post("/v1/completions", json=completion(**other))).json()
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert answer["model"] == "ad"


async def test_the_next_turn_reuses_the_answer() -> None:
    """A conversation's next turn finds the blocks of the generated answer."""
    async with serving() as (_, client):
        messages = [{"role": "user", "content": PROMPT}]
        body = {"model": "m", "messages": messages, "max_tokens": 64, "ignore_eos": True}
        first = (await client.post("/v1/chat/completions", json=body)).json()
        messages += [first["choices"][0]["message"], {"role": "user", "content": "and then?"}]
        second = (await client.post("/v1/chat/completions", json=body)).json()
        details = second["usage"]["prompt_tokens_details"]
        assert details["cached_tokens"] > first["usage"]["prompt_tokens"] + 32


@pytest.mark.parametrize("cut", [1, 7, 19])
async def test_a_broken_stream_can_be_continued_by_token_ids(cut: int) -> None:
    """Prompt ids and generated ids as a new prompt give exactly the rest of the answer."""
    async with serving() as (_, client):
        events = await events_of(client, "/v1/completions", completion(max_tokens=40, return_token_ids=True))
        prompt_ids = events[0]["choices"][0]["prompt_token_ids"]
        ids = [token for event in events for token in event["choices"][0]["token_ids"]]
        body = completion(prompt=prompt_ids + ids[:cut], max_tokens=40 - cut, return_token_ids=True)
        rest = (await client.post("/v1/completions", json=body)).json()
        assert rest["choices"][0]["token_ids"] == ids[cut:]
        assert rest["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


async def test_answers_end_by_themselves_unless_told_not_to() -> None:
    """Without ignore_eos an answer stops before its limit, at the same place each time, after min_tokens."""
    async with serving(mean_output_tokens=20) as (_, client):
        ends = [
            (await client.post("/v1/completions", json=completion(ignore_eos=False, max_tokens=2000))).json()
            for _ in range(2)
        ]
        assert [answer["choices"][0]["finish_reason"] for answer in ends] == ["stop", "stop"]
        counts = [answer["usage"]["completion_tokens"] for answer in ends]
        assert counts[0] == counts[1] < 2000
        more = completion(ignore_eos=False, max_tokens=2000, min_tokens=counts[0] + 1)
        answer = (await client.post("/v1/completions", json=more)).json()
        assert answer["usage"]["completion_tokens"] > counts[0]


@pytest.mark.parametrize(
    ("body", "status", "param", "text"),
    [
        ({"model": "x", "prompt": "a"}, 404, "model", "Valid aliases: m."),
        ({"model": "m", "prompt": "a", "max_tokens": "q"}, 400, "max_tokens", "max_tokens"),
        ({"model": "m", "prompt": "a", "max_tokens": 0}, 400, "max_tokens", ">= 1"),
        ({"model": "m", "prompt": "a", "n": 2}, 400, "n", "n=1"),
        ({"model": "m"}, 400, "prompt", "prompt"),
        ({"model": "m", "prompt": ""}, 400, "prompt", "empty"),
        ({"model": "m", "prompt": [2**40]}, 400, "prompt", "out of vocabulary"),
        ({"model": "m", "prompt": "a" * 5000}, 400, "input_tokens", "maximum context length is 1000 tokens"),
    ],
)
async def test_errors_have_openais_shape(body: dict[str, Any], status: int, param: str, text: str) -> None:
    """A wrong request is answered with the status, the field and a message that says what is wrong."""
    async with serving(max_model_len=1000) as (_, client):
        response = await client.post("/v1/completions", json=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (status, status, param)
        assert text in error["message"]
        assert response.headers["x-penstock-simulated"] == "1"


async def test_a_client_that_leaves_is_aborted() -> None:
    """When the connection closes, the request's blocks are free soon, and it counts as an abort."""
    async with serving(speed=1.0) as (worker, client):
        async with client.stream("POST", "/v1/completions", json=completion(max_tokens=50_000, stream=True)) as got:
            await anext(got.aiter_bytes())
            assert worker.stats.running == 1
        await until(lambda: worker.stats.in_flight == 0)
        assert worker.stats.kv_usage == 0.0
        assert 'finished_reason="abort"} 1.0' in (await client.get("/metrics")).text


async def test_a_drain_lets_streams_finish() -> None:
    """Stopping with a drain refuses new connections and finishes the stream that runs."""
    worker = server.SimServer(settings.SimSettings(model="m", speed=1.0))
    port = await worker.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        running = asyncio.create_task(events_of(client, "/v1/completions", completion(max_tokens=100)))
        await until(lambda: worker.stats.running == 1)
        await worker.stop(drain_s=20.0)
        events = await running
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        with pytest.raises(httpx.ConnectError):
            await client.get("/health")


async def test_a_stop_without_drain_says_so_in_the_stream() -> None:
    """A stream that is cut by a stop ends with an error event, not in silence."""
    worker = server.SimServer(settings.SimSettings(model="m", speed=1.0))
    port = await worker.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        running = asyncio.create_task(events_of(client, "/v1/completions", completion(max_tokens=50_000)))
        await until(lambda: worker.stats.running == 1)
        await worker.stop()
        assert (await running)[-1]["error"]["code"] == 503


async def test_the_small_endpoints() -> None:
    """Models, tokenize and back, embeddings, version, health, LoRA, prefix cache reset."""
    async with serving() as (worker, client):
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/version")).json()["simulated"] is True
        assert (await client.get("/v1/models")).json()["data"][0]["owned_by"] == "penstock-simulated"
        ids = (await client.post("/tokenize", json={"prompt": "Grüße, Welt"})).json()["tokens"]
        assert (await client.post("/detokenize", json={"tokens": ids})).json()["prompt"] == "Grüße, Welt"
        vectors = (await client.post("/v1/embeddings", json={"model": "m", "input": ["a", "b"]})).json()["data"]
        assert len(vectors) == 2 and vectors[0]["embedding"] != vectors[1]["embedding"]
        lora = {"lora_name": "ad", "lora_path": "/a"}
        statuses = [(await client.post("/v1/load_lora_adapter", json=lora)).status_code for _ in range(2)]
        assert statuses == [200, 400]
        assert (await client.post("/v1/unload_lora_adapter", json={"lora_name": "no"})).status_code == 404
        await client.post("/v1/completions", json=completion())
        assert worker.stats.cached_blocks > 0
        assert (await client.post("/reset_prefix_cache")).status_code == 200
        assert worker.stats.cached_blocks == 0
        assert (await client.get("/nowhere")).status_code == 404
        assert (await client.get("/v1/completions")).status_code == 405


async def test_many_at_once_all_get_their_tokens() -> None:
    """Forty concurrent requests on a small cache are all answered in full."""
    async with serving(kv_blocks=200, max_num_seqs=16) as (worker, client):
        bodies = [completion(prompt=f"{number} {PROMPT}", max_tokens=50 + number) for number in range(40)]
        answers = await asyncio.gather(*(client.post("/v1/completions", json=body) for body in bodies))
        assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [50 + n for n in range(40)]
        assert worker.stats.kv_usage == 0.0

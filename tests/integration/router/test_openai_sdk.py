"""The OpenAI Python SDK through the gateway to a simulated worker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest

from tests.support import gateways
from workers.sim import server as sim_server
from workers.sim import settings as sim_settings


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    engine = sim_server.SimServer(sim_settings.SimSettings(model="tiny"))
    port = await engine.start()
    async with gateways.running(f"http://127.0.0.1:{port}") as gateway:
        sdk = openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="unused", max_retries=0)
        yield sdk
        await sdk.close()
    await engine.stop(0.0)


async def test_chat_completion_and_usage(client: openai.AsyncOpenAI) -> None:
    """A chat comes back with its usage; the same prompt again is served from the cache."""
    messages = [{"role": "user", "content": "hello " * 100}]
    first = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=8)  # type: ignore[arg-type]
    again = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=8)  # type: ignore[arg-type]
    assert first.choices[0].message.content
    assert first.usage is not None and first.usage.completion_tokens == 8
    assert again.usage is not None and again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) > 0


async def test_stream_with_usage(client: openai.AsyncOpenAI) -> None:
    """A stream brings words one after the other, and the usage at its end."""
    stream = await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    chunks = [chunk async for chunk in stream]
    words = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert words
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 12


async def test_completions_embeddings_and_models(client: openai.AsyncOpenAI) -> None:
    """Text and token-id prompts, embeddings and the list of models."""
    text = await client.completions.create(model="tiny", prompt="once upon", max_tokens=4)
    ids = await client.completions.create(model="tiny", prompt=[1, 2, 3, 4], max_tokens=4)
    vectors = await client.embeddings.create(model="tiny", input="words", encoding_format="float")
    models = [model.id async for model in client.models.list()]
    assert text.choices[0].text and ids.choices[0].text
    assert ids.usage is not None and ids.usage.prompt_tokens == 4
    assert len(vectors.data[0].embedding) > 0
    assert models == ["tiny"]


async def test_errors_are_the_sdks_own(client: openai.AsyncOpenAI) -> None:
    """Errors arrive as the SDK's exceptions, with the field or the model that is wrong."""
    with pytest.raises(openai.NotFoundError, match="'other' is not served here"):
        await client.chat.completions.create(model="other", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="tiny", messages=[])
    assert caught.value.param == "messages"

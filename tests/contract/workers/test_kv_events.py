"""The KV event subscriber against the simulated worker's publisher."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx

from workers.adapters import kv_events, kv_wire
from workers.sim import server, settings, tokens

PROMPT = "one two three four five six seven eight nine ten " * 8


@contextlib.asynccontextmanager
async def worker(**fields: int) -> AsyncIterator[tuple[server.SimServer, httpx.AsyncClient]]:
    """A worker that publishes KV events."""
    config = {"model": "m", "speed": 100.0, "kv_events_port": 0, "kv_replay_port": 0} | fields
    made = server.SimServer(settings.SimSettings.model_validate(config))
    port = await made.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield made, client
    finally:
        await made.stop()


async def ask(client: httpx.AsyncClient, prompt: str = PROMPT) -> None:
    """One request."""
    body = {"model": "m", "prompt": prompt, "max_tokens": 40, "ignore_eos": True}
    (await client.post("/v1/completions", json=body)).raise_for_status()


def subscriber(made: server.SimServer, replay: bool = True) -> kv_events.KvSubscriber:
    """A subscriber to that worker."""
    endpoint = f"tcp://127.0.0.1:{made.kv_replay_port}" if replay else None
    return kv_events.KvSubscriber(f"tcp://127.0.0.1:{made.kv_events_port}", endpoint)


async def collect(items: AsyncIterator[kv_events.Item], enough: int) -> list[kv_events.Item]:
    """The next `enough` items, with a deadline."""
    async with asyncio.timeout(10):
        return [await anext(items) for _ in range(enough)]


async def test_a_late_subscriber_gets_what_was_before() -> None:
    """Replay brings the batches published before the subscriber came, and their hashes are those of the text."""
    async with worker() as (made, client):
        await ask(client)
        async with subscriber(made) as events:
            first = (await collect(events.items(), 1))[0]
            assert isinstance(first, kv_wire.Batch) and first.sequence == 0
            stored = first.events[0]
            assert isinstance(stored, kv_wire.Stored)
            tokenizer = tokens.Tokenizer(4)
            data = tokenizer.encode(PROMPT)
            expected = tokens.block_hashes(data, 64, tokens.chain_root(0, None, None))
            assert list(stored.hashes) == expected and stored.parent is None
            assert list(stored.token_ids) == tokenizer.ids(data)[: 16 * len(expected)]


async def test_events_follow_the_cache() -> None:
    """Applying stored, removed and cleared gives exactly the number of blocks that the worker has cached."""
    async with worker(kv_blocks=64) as (made, client):
        for number in range(8):
            await ask(client, f"{number} {PROMPT}")
        cached = made.stats.cached_blocks
        async with subscriber(made) as events:
            have: set[kv_wire.BlockHash] = set()
            stream = events.items()
            while len(have) != cached or not have:
                (item,) = await collect(stream, 1)
                assert isinstance(item, kv_wire.Batch)
                for event in item.events:
                    if isinstance(event, kv_wire.Stored):
                        have |= set(event.hashes)
                    elif isinstance(event, kv_wire.Removed):
                        assert have >= set(event.hashes)
                        have -= set(event.hashes)
            await client.post("/reset_prefix_cache")
            async with asyncio.timeout(10):
                async for item in stream:
                    if isinstance(item, kv_wire.Batch) and item.events == (kv_wire.Cleared(),):
                        break


async def test_what_replay_no_longer_has_is_a_gap() -> None:
    """When the buffer is too short, the subscriber is told which batches it missed."""
    async with worker(kv_buffer_steps=1) as (made, client):
        for number in range(3):
            await ask(client, f"{number} {PROMPT}")
        async with subscriber(made) as events:
            gap, batch = await collect(events.items(), 2)
            assert isinstance(gap, kv_events.Gap) and isinstance(batch, kv_wire.Batch)
            assert (gap.first, gap.last) == (0, batch.sequence - 1)


async def test_without_replay_a_late_subscriber_knows_that_it_is_late() -> None:
    """The first live batch comes after word of what is missing."""
    async with worker() as (made, client):
        await ask(client)
        async with subscriber(made, replay=False) as events:
            pending = asyncio.create_task(collect(events.items(), 2))
            number = 0
            while not pending.done():
                number += 1
                await ask(client, f"{number} {PROMPT}")
            gap, batch = pending.result()
            assert isinstance(gap, kv_events.Gap) and gap.first == 0
            assert isinstance(batch, kv_wire.Batch) and batch.sequence == gap.last + 1


async def test_a_restarted_engine_is_noticed() -> None:
    """When the sequence begins anew on the same port, the subscriber is told, then gets the new batches."""
    async with worker() as (made, client):
        ports = {"kv_events_port": made.kv_events_port or 0, "kv_replay_port": made.kv_replay_port or 0}
        for number in range(12):
            await ask(client, f"{number} {PROMPT}")
        async with subscriber(made) as events:
            stream = events.items()
            await collect(stream, 3)
            await made.stop()
            async with worker(**ports) as (_, second):
                seen: list[kv_events.Item] = []
                pending = asyncio.create_task(read_until_restart(stream, seen))
                number = 100
                async with asyncio.timeout(20):
                    while not pending.done():
                        number += 1
                        await ask(second, f"{number} {PROMPT}")
                        await asyncio.wait({pending}, timeout=0.3)
                assert isinstance(seen[-1], kv_events.Restarted)


async def read_until_restart(stream: AsyncIterator[kv_events.Item], seen: list[kv_events.Item]) -> None:
    """Read on until the restart is told."""
    async for item in stream:
        seen.append(item)
        if isinstance(item, kv_events.Restarted):
            return

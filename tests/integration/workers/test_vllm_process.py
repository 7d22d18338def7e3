"""A real vLLM engine on CPU: starts, answers, reuses prefixes, publishes events, stops without a trace."""

import asyncio
import os
import pathlib

import httpx
import pytest

from workers.adapters import kv_events, kv_wire, registry
from workers.vllm import install, process, tiny_model

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not install.is_installed(), reason="no .venv-vllm; make it with: python -m workers.vllm.install"
    ),
]


async def test_a_real_engine(tmp_path: pathlib.Path) -> None:
    """The second equal chat finds its prefix, the metrics agree, the events tell the blocks, and nothing is left."""
    tiny_model.write(tmp_path / "tiny")
    events_at = f"ipc://{tmp_path}/kv"
    config = process.VllmSettings(model_path=tmp_path / "tiny", kv_events_endpoint=events_at, start_timeout_s=360)
    engine = process.VllmProcess(config)
    await engine.start()
    pid = engine.pid
    assert pid is not None
    try:
        async with kv_events.KvSubscriber(events_at) as events, httpx.AsyncClient(base_url=engine.url) as client:
            body = {
                "model": "tiny",
                "messages": [{"role": "user", "content": "zebra " * 60}],
                "max_tokens": 8,
                "temperature": 0,
                "ignore_eos": True,
            }
            answers = [(await client.post("/v1/chat/completions", json=body, timeout=60)).json() for _ in range(2)]
            cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers]
            assert cached == [0, 352]
            read = registry.parser_for("vllm")((await client.get("/metrics", timeout=30)).text)
            assert read.prefix_hits_tokens_total == 352
            # The subscription may come too late for the first batches: then the first item tells of the gap.
            pending = asyncio.ensure_future(anext(events.items()))
            async with asyncio.timeout(60):
                number = 0
                while not pending.done():
                    number += 1
                    prompt = {"model": "tiny", "prompt": f"{number} " * 60, "max_tokens": 2}
                    await client.post("/v1/completions", json=prompt, timeout=30)
                    await asyncio.wait({pending}, timeout=0.3)
            assert isinstance(pending.result(), (kv_wire.Batch, kv_events.Gap))
    finally:
        await engine.stop()
    assert engine.poll() is not None
    assert living(pid) == []


def living(group: int) -> list[int]:
    """Processes of the group that are not zombies."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, process_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(process_group) == group and state != "Z" and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found

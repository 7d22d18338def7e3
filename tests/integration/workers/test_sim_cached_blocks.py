"""A simulated worker says how many blocks it has cached."""

from __future__ import annotations

import httpx

from workers.sim import server as sim_server
from workers.sim import settings as sim_settings


async def test_cached_blocks_grow_with_a_prompt() -> None:
    """The gauge is zero at first and counts the blocks of a prompt that was served."""
    engine = sim_server.SimServer(sim_settings.SimSettings(model="m"))
    port = await engine.start()

    async def cached(http: httpx.AsyncClient) -> float:
        lines = (await http.get("/metrics")).text.splitlines()
        [line] = [line for line in lines if line.startswith("penstock:cached_blocks")]
        return float(line.rpartition(" ")[2])

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
        assert await cached(http) == 0
        await http.post("/v1/completions", json={"model": "m", "prompt": "word " * 200, "max_tokens": 1})
        assert await cached(http) >= 12
    await engine.stop(0.0)

"""A gateway of its own in a test's event loop, on free ports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from router.server import main
from router.server import settings as gateway_settings


class Running:
    """A gateway that runs."""

    def __init__(self, address: tuple[str, int], admin: tuple[str, int]) -> None:
        self.host, self.port = address
        self.url = f"http://{address[0]}:{address[1]}"
        self.admin_url = f"http://{admin[0]}:{admin[1]}"
        self.client = httpx.AsyncClient(base_url=self.url, timeout=20.0)
        self.admin = httpx.AsyncClient(base_url=self.admin_url, timeout=20.0)

    async def chat(self, content: str = "hi", **fields: Any) -> httpx.Response:
        """One chat request; `headers` go to the request, everything else into the body."""
        headers = fields.pop("headers", None)
        body = {"model": "m", "messages": [{"role": "user", "content": content}], **fields}
        return await self.client.post("/v1/chat/completions", json=body, headers=headers)

    async def raw(self, data: bytes, *, until_close: bool = False, timeout_s: float = 10.0) -> bytes:
        """Sends bytes on a new connection; returns what came until it was silent for a moment, or closed."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(data)
        received = b""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    part = await reader.read(65_536)
                    received += part
                    if not part or (not until_close and received.endswith((b"}", b"0\r\n\r\n"))):
                        return received
        finally:
            writer.close()

    async def metric(self, name: str) -> float:
        """Sum over the samples of a metric."""
        text = (await self.admin.get("/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith(name) and line[len(name)] in " {"]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextlib.asynccontextmanager
async def running(*endpoints: str, **settings: Any) -> AsyncIterator[Running]:
    """A gateway in front of `endpoints`, stopped at the end."""
    fields: dict[str, Any] = {"port": 0, "admin_port": 0, "endpoints": endpoints, **settings}
    built = gateway_settings.GatewaySettings.model_validate(fields)
    life, address, admin = main.build(built, asyncio.get_running_loop())
    await life.start()
    gateway = Running(address, admin)
    try:
        yield gateway
    finally:
        await life.stop()
        await gateway.client.aclose()
        await gateway.admin.aclose()


async def until(condition: Callable[[], Any], timeout_s: float = 10.0, what: str = "the condition") -> None:
    """Waits for `condition()` to be true, or to return an awaitable that is."""
    async with asyncio.timeout(timeout_s):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.01)

"""A proxy that copies bytes to the endpoints in turn, connection by connection: the floor of what a proxy can cost.

Run as `python -m benchmarks.gateway.passthrough --port P --endpoint URL [--endpoint URL ...]`.
"""

import argparse
import asyncio
import itertools
import urllib.parse
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One half of a pair of connections: what it receives, the other half writes."""

    def __init__(self) -> None:
        self.other: Side | None = None
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open: write what came before it was."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.writelines(self._early)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        """Hand it on."""
        if self.other is not None:
            self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other half too."""
        self._transport = None
        if self.other is not None:
            self.other.close()

    def write(self, data: bytes) -> None:
        """Write now, or as soon as the connection is open."""
        if self._transport is None:
            self._early.append(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close after what is written."""
        if self._transport is not None:
            self._transport.close()


async def _serve(port: int, endpoints: list[str]) -> None:
    loop = asyncio.get_running_loop()
    turn = itertools.cycle([urllib.parse.urlsplit(url) for url in endpoints])
    tasks = set()

    def accept() -> Side:
        near, far, url = Side(), Side(), next(turn)
        near.other, far.other = far, near
        task = loop.create_task(loop.create_connection(lambda: far, url.hostname or "", url.port or 80))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return near

    server = await loop.create_server(accept, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--endpoint", action="append", required=True)
    given = parser.parse_args()
    uvloop.run(_serve(given.port, given.endpoint))

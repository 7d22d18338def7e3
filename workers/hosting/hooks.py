"""The agent's own port in a Pod: `/drain` answers when the worker has drained, `/healthz` that the agent runs.

An engine's container asks `/drain` as its preStop hook: Kubernetes sends SIGTERM to all containers of a Pod at once, and this
is what makes the engine's wait until its last stream has ended. It is answered within the Pod only: nobody else drains a
worker without showing who they are (`workers.control`).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable

from penstock.runtime import errors


class Hooks:
    """A server of two paths. `drain` may be called several times."""

    def __init__(self, host: str, port: int | None, drain: Callable[[], Awaitable[None]]) -> None:
        """`port` None: nothing is served."""
        self._host, self._wanted, self._drain = host, port, drain
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.port: int | None = None

    async def start(self) -> None:
        """Listens. Raises `StartError` where the port is taken."""
        if self._wanted is None:
            return
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._wanted)
        except OSError as exc:
            raise errors.StartError(f"agent on {self._host}:{self._wanted}: {exc.strerror or exc}") from exc
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Closes the port when those who wait have their answer."""
        if self._server is None:
            return
        self._server.close()
        if self._open:
            await asyncio.wait(self._open, timeout=2.0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            async with asyncio.timeout(5.0):
                head = await reader.readuntil(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].partition(b"?")[0]
            status = b"200 OK" if target in (b"/drain", b"/healthz") else b"404 Not Found"
            if target == b"/drain" and not _from_here(writer):
                status = b"403 Forbidden"
            elif target == b"/drain":
                await self._drain()
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            pass
        finally:
            self._open.discard(task)
            writer.close()


def _from_here(writer: asyncio.StreamWriter) -> bool:
    """Whether the caller is in the same Pod: its containers share the loopback."""
    address = ipaddress.ip_address(str(writer.get_extra_info("peername")[0]).partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)

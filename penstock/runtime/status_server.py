"""A port that serves a process' metrics with its health and readiness."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Callable

import prometheus_client

from penstock.runtime import errors


class StatusServer:
    """`/metrics`, `/healthz` (the process turns), `/readyz` (it can do its work)."""

    def __init__(
        self,
        registry: prometheus_client.CollectorRegistry,
        host: str,
        port: int | None,
        not_ready: Callable[[], str],
        refresh: Callable[[], None],
        address_file: pathlib.Path | None = None,
    ) -> None:
        """`not_ready` gives the reason or nothing; `refresh` sets what is sampled. Without a port it does nothing."""
        self._registry, self._host, self._wanted = registry, host, port
        self._not_ready, self._refresh, self._file = not_ready, refresh, address_file
        self._server: asyncio.Server | None = None
        self.port: int | None = None

    async def start(self) -> None:
        """Listens, where a port is wanted. Raises `StartError` where it is taken."""
        if self._wanted is None:
            return
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._wanted)
        except OSError as exc:
            raise errors.StartError(f"metrics on {self._host}:{self._wanted}: {exc.strerror or exc}") from exc
        self.port = self._server.sockets[0].getsockname()[1]
        if self._file is not None:
            partial = self._file.with_suffix(".tmp")
            partial.write_text(f"{self._host}:{self.port}")
            partial.replace(self._file)

    async def stop(self) -> None:
        """Closes the port."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request on one connection: probes and scrapes are few."""
        try:
            async with asyncio.timeout(5.0):
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split(b" ", 2)[1].decode("latin-1").partition("?")[0]
                status, body = self._answer(target)
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {prometheus_client.CONTENT_TYPE_LATEST}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            pass
        finally:
            writer.close()

    def _answer(self, target: str) -> tuple[str, bytes]:
        if target == "/metrics":
            self._refresh()
            return "200 OK", prometheus_client.generate_latest(self._registry)
        if target == "/healthz":
            return "200 OK", b"ok\n"
        if target == "/readyz":
            reason = self._not_ready()
            return ("503 Service Unavailable", f"{reason}\n".encode()) if reason else ("200 OK", b"ok\n")
        return "404 Not Found", b"/metrics, /healthz, /readyz\n"

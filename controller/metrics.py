"""The controller's own metrics, for Prometheus."""

from __future__ import annotations

import asyncio

import prometheus_client
from prometheus_client import registry

from penstock.runtime import errors


class MetricsServer:
    """Serves a collector's metrics over HTTP from a thread of its own; without a port it does nothing."""

    def __init__(self, collector: registry.Collector, host: str, port: int | None) -> None:
        self._registry = prometheus_client.CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        self._host, self._wanted = host, port
        self._stop = lambda: None
        self.port: int | None = None

    async def start(self) -> None:
        """Listens. Raises `StartError` where the port is taken."""
        if self._wanted is None:
            return
        try:
            server, thread = prometheus_client.start_http_server(self._wanted, self._host, self._registry)
        except OSError as exc:
            raise errors.StartError(f"metrics on {self._host}:{self._wanted}: {exc.strerror or exc}") from exc
        self.port = server.server_address[1]

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._stop = stop

    async def stop(self) -> None:
        """Closes the port."""
        await asyncio.to_thread(self._stop)

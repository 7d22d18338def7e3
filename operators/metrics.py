"""The operator's own metrics, and the port that serves them with health and readiness."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Callable, Mapping

import prometheus_client

from penstock.runtime import errors

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """What an operator counts."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry(auto_describe=False)
        own = self.registry
        self.passes = prometheus_client.Counter(
            "penstock_operator_reconciles", "Passes over objects", ["kind", "result"], registry=own
        )
        self.pass_s = prometheus_client.Histogram(
            "penstock_operator_reconcile_seconds", "Time of a pass", ["kind"], buckets=_BUCKETS_S, registry=own
        )
        self.wait_s = prometheus_client.Histogram(
            "penstock_operator_queue_seconds", "Time from due to begun", buckets=_BUCKETS_S, registry=own
        )
        self.depth = prometheus_client.Gauge("penstock_operator_queue_depth", "Objects that are due", registry=own)
        self.commands = prometheus_client.Counter(
            "penstock_operator_commands", "What was done to workers", ["command"], registry=own
        )
        self.calls = prometheus_client.Counter(
            "penstock_operator_api_calls",
            "Answers of the API server; code 0: none came",
            ["verb", "code"],
            registry=own,
        )
        self.leading = prometheus_client.Gauge("penstock_operator_leading", "Whether this operator leads", registry=own)
        self.degraded = prometheus_client.Gauge(
            "penstock_operator_degraded", "Degraded modes that hold now", ["mode"], registry=own
        )
        self.resync_s = prometheus_client.Gauge(
            "penstock_operator_resync_seconds", "Time of the last pass over everything", registry=own
        )

    def called(self, verb: str, code: int) -> None:
        """One answer of the API server."""
        self.calls.labels(verb, str(code)).inc()


class StatusServer:
    """`/metrics`, `/healthz` (the process turns), `/readyz` (it knows the cluster; leading or standing by)."""

    def __init__(
        self,
        metrics: Metrics,
        host: str,
        port: int | None,
        gauges: Callable[[], Mapping[str, bool]],
        not_ready: Callable[[], str],
        refresh: Callable[[], None],
        address_file: pathlib.Path | None = None,
    ) -> None:
        """`gauges` gives the degraded modes, `not_ready` the reason or nothing; `refresh` sets what is sampled."""
        self._metrics, self._host, self._wanted = metrics, host, port
        self._gauges, self._not_ready, self._refresh, self._file = gauges, not_ready, refresh, address_file
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
            for mode, holds in self._gauges().items():
                self._metrics.degraded.labels(mode).set(holds)
            return "200 OK", prometheus_client.generate_latest(self._metrics.registry)
        if target == "/healthz":
            return "200 OK", b"ok\n"
        if target == "/readyz":
            reason = self._not_ready()
            return ("503 Service Unavailable", f"{reason}\n".encode()) if reason else ("200 OK", b"ok\n")
        return "404 Not Found", b"/metrics, /healthz, /readyz\n"

"""gRPC as every process uses it: health and reflection on, loopback by default, optional TLS, deadlines on calls."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from penstock.runtime import errors, logs

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# In the certificate of every worker's agent: its address is a Pod's, which nobody knows before the Pod is there.
AGENT_NAME = "penstock-agent"

Register = Callable[[aio.Server], None]


@dataclasses.dataclass(frozen=True)
class Tls:
    """PEM files. A server needs `cert` and `key`, and asks clients for a certificate where `ca` is given."""

    cert: pathlib.Path | None = None
    key: pathlib.Path | None = None
    ca: pathlib.Path | None = None


def _options(max_message_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # Two servers on one port would share its calls without anyone noticing.
        ("grpc.so_reuseport", 0),
        ("grpc.enable_http_proxy", 0),
    ]


class GrpcServer:
    """An aio server for `services` (full names), each registered by its generated function."""

    def __init__(
        self,
        services: Sequence[tuple[str, Register]],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: Tls | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._services = list(services)
        self._host, self._wanted_port, self._tls = host, port, tls
        self._max_message_bytes = max_message_bytes
        self._server: aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self.port = 0

    @property
    def address(self) -> str:
        """`host:port` that it listens on."""
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    async def start(self) -> int:
        """Listens, and reports SERVING. Returns the port. Raises `StartError` where the port is taken."""
        server = aio.server(options=_options(self._max_message_bytes))
        for _, register in self._services:
            register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [name for name, _ in self._services]
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        host = f"[{self._host}]" if ":" in self._host else self._host
        address = f"{host}:{self._wanted_port}"
        try:
            if self._tls is not None:
                self.port = server.add_secure_port(address, _server_credentials(self._tls))
            else:
                self.port = server.add_insecure_port(address)
        except RuntimeError as exc:
            raise errors.StartError(f"gRPC cannot listen on {address}: {exc}") from exc
        await server.start()
        self._server = server
        for name in ["", *names]:
            await self.set_serving(name, True)
        return self.port

    async def set_serving(self, service: str, serving: bool) -> None:
        """What the health service says of `service` ("" is the process)."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(service, status)

    async def stop(self, grace_s: float = 2.0) -> None:
        """Reports NOT_SERVING, lets calls finish for `grace_s`, closes."""
        if self._server is None:
            return
        server, self._server = self._server, None
        await self._health.enter_graceful_shutdown()
        await server.stop(grace_s)


class _Deadline(aio.UnaryUnaryClientInterceptor):
    """Gives a deadline to each unary call that has none."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def intercept_unary_unary(
        self,
        continuation: Callable[..., Awaitable[Any]],
        client_call_details: aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        """See grpc.aio."""
        details = client_call_details
        if details.timeout is None:
            details = aio.ClientCallDetails(
                details.method, self._timeout_s, details.metadata, details.credentials, details.wait_for_ready
            )
        return await continuation(details, request)


def channel(
    address: str,
    *,
    timeout_s: float = 5.0,
    tls: Tls | None = None,
    server_name: str = "",
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> aio.Channel:
    """A channel whose unary calls end after `timeout_s` unless a call says otherwise. Streams have no deadline.

    `server_name`: the name that the server's certificate has to have, where that is not the address.
    """
    options = [
        *_options(max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", 30_000),
    ]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    interceptors = [_Deadline(timeout_s)]
    if tls is None:
        return aio.insecure_channel(address, options=options, interceptors=interceptors)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca), private_key=_read(tls.key), certificate_chain=_read(tls.cert)
    )
    return aio.secure_channel(address, credentials, options=options, interceptors=interceptors)


def translate(exc: aio.AioRpcError, what: str) -> errors.PenstockError:
    """The error to raise (`from exc`) for a failed call."""
    message = f"{what}: {logs.mask_urls(exc.details() or exc.code().name)}"
    retryable = exc.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    )
    return errors.RetryableError(message) if retryable else errors.TerminalError(message)


def _server_credentials(tls: Tls) -> grpc.ServerCredentials:
    key, cert = _read(tls.key), _read(tls.cert)
    if key is None or cert is None:
        raise errors.SettingsError("gRPC over TLS needs both a certificate and a key file")
    return grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=_read(tls.ca), require_client_auth=tls.ca is not None
    )


def _read(path: pathlib.Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as exc:
        raise errors.SettingsError(f"TLS file {path}: {exc.strerror}") from exc

"""Builds a gateway from its settings and runs it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import pathlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
import uvloop

from penstock.api import wire
from penstock.api.types import WorkerRecord
from penstock.runtime import clock as clocks
from penstock.runtime import compiled, errors, lifecycle, logs, registry
from penstock.runtime import redis as redis_link
from router.dataplane import fleet, front, gateway, heads, upstream
from router.index import prefix
from router.policy import profiles
from router.server import app, certificates, degraded, deployments, prober, registered, sharing, static
from router.server import settings as gateway_settings


def read_keys(path: pathlib.Path | None) -> heads.Keys:
    """API keys from a file of `tenant: sha256 of the key, in hex`. Raises SettingsError naming the line."""
    tenants: dict[bytes, str] = {}
    if path is None:
        return heads.Keys(tenants)
    try:
        lines = path.read_text().splitlines()
    except OSError as exc:
        raise errors.SettingsError(f"api_keys_file {path}: {exc.strerror}") from exc
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        tenant, _, digest = (part.strip() for part in text.partition(":"))
        try:
            raw = bytes.fromhex(digest)
        except ValueError:
            raw = b""
        if not tenant or len(raw) != 32:
            raise errors.SettingsError(
                f"api_keys_file {path}, line {number}: must be `tenant: sha256 of the key in hex`"
            )
        tenants[raw] = tenant
    if not tenants:
        raise errors.SettingsError(f"api_keys_file {path} holds no key")
    return heads.Keys(tenants)


def check_tls(settings: gateway_settings.GatewaySettings) -> None:
    """Raises SettingsError where the files of the client port's certificate are not there or do not fit."""
    if settings.tls_cert is None:
        return
    try:
        # An empty password: or OpenSSL would ask the terminal for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except OSError as exc:
        raise errors.SettingsError(f"tls_cert {settings.tls_cert}, tls_key {settings.tls_key}: {exc}") from exc


def listen(host: str, port: int, *, shared: bool) -> socket.socket:
    """A listening socket. `shared`: other gateways may listen on the same port (SO_REUSEPORT)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(2_048)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise errors.StartError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
    return sock


class HttpServer(uvicorn.Server):
    """uvicorn as a component: signals are the process', not its own."""

    def __init__(self, config: uvicorn.Config, sock: socket.socket) -> None:
        super().__init__(config)
        self.sock = sock
        self._serving: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """No signal is taken over."""
        yield

    async def start(self) -> None:
        """Returns once connections are taken."""
        self._serving = asyncio.create_task(self.serve(sockets=[self.sock]))
        while not self.started and not self._serving.done():
            await asyncio.sleep(0.005)
        if self._serving.done():
            self._serving.result()

    async def stop(self) -> None:
        """Stops accepting, lets answers finish within the configured time, closes the rest."""
        self.should_exit = True
        if self._serving is None:
            self.sock.close()
            return
        for connection in list(self.server_state.connections):
            connection.shutdown()
        timeout_s = self.config.timeout_graceful_shutdown
        try:
            await asyncio.wait_for(asyncio.shield(self._serving), (timeout_s or 0) + 0.5)
        except TimeoutError:
            for connection in list(self.server_state.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            self.force_exit = True
            await self._serving


class Ticker:
    """Drives what happens by time: deadlines, probes, slow clients."""

    def __init__(
        self, owner: gateway.Gateway, probes: prober.Prober, server: HttpServer, health: degraded.Degraded
    ) -> None:
        self._gateway = owner
        self._prober = probes
        self._server = server
        self._health = health
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts ticking."""
        self._task = asyncio.create_task(self._run(), name="gateway-tick")

    async def stop(self) -> None:
        """Stops ticking and probing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._prober.stop()

    async def _run(self) -> None:
        log = logs.get("gateway")
        while True:
            await asyncio.sleep(gateway.TICK_S)
            try:
                self._tick()
            except Exception:
                log.exception("tick_failed")

    def _tick(self) -> None:
        owner = self._gateway
        self._prober.tick()
        if owner.tick % 4 == 0:
            for connection in list(self._server.server_state.connections):
                if isinstance(connection, front.FrontProtocol):
                    connection.check_deadlines(owner.tick)
        ejected = sorted(owner.suspects)
        if ejected:
            named = ", ".join(ejected[:5]) + (f" and {len(ejected) - 5} more" if len(ejected) > 5 else "")
            self._health.set(degraded.ENDPOINTS_EJECTED, f"failed and not answering probes: {named}")
        else:
            self._health.clear(degraded.ENDPOINTS_EJECTED)
        held = len(owner.holding)
        if held:
            self._health.set(
                degraded.SATURATED, f"{held} requests wait: the KV caches of the endpoints that they want are full"
            )
        else:
            self._health.clear(degraded.SATURATED)
        if any(pool.bits for pool in owner.fleet.pools.values()):
            self._health.clear(degraded.NO_ENDPOINT)
        else:
            self._health.set(
                degraded.NO_ENDPOINT, f"no endpoint takes requests; {len(owner.fleet.backends)} have answered"
            )


class Draining:
    """Says that the gateway is stopping, before anything is closed."""

    def __init__(self, owner: gateway.Gateway) -> None:
        self._gateway = owner

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Readiness is gone from now on."""
        self._gateway.draining = True


def limits_of(settings: gateway_settings.LimitSettings) -> gateway.Limits:
    """The data plane's limits."""
    return gateway.Limits(**settings.model_dump(exclude={"drain_s"}))


def _http(
    application: Any, sock: socket.socket, settings: gateway_settings.GatewaySettings, protocol: Any, *, tls: bool
) -> HttpServer:
    config = uvicorn.Config(
        application,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=int(settings.limits.keep_alive_s) or 1,
        timeout_graceful_shutdown=int(settings.limits.drain_s),
        ssl_certfile=str(settings.tls_cert) if tls and settings.tls_cert else None,
        ssl_keyfile=str(settings.tls_key) if tls and settings.tls_key else None,
    )
    return HttpServer(config, sock)


def _picker(
    settings: gateway_settings.GatewaySettings, owner: gateway.Gateway, keys: heads.Keys
) -> lifecycle.Component:
    """The endpoint picker's port; only who has one pays for gRPC."""
    from penstock.api.proto import ext_proc_pb2_grpc
    from penstock.runtime import grpcs
    from router.server import picker

    told = settings.picker
    if (told.tls_cert is None) != (told.tls_key is None):
        raise errors.SettingsError("picker.tls_cert and picker.tls_key belong together")
    service = picker.Picker(owner, keys)
    return grpcs.GrpcServer(
        [(picker.SERVICE, functools.partial(ext_proc_pb2_grpc.add_ExternalProcessorServicer_to_server, service))],
        host=told.host,
        port=told.port or 0,
        tls=grpcs.Tls(told.tls_cert, told.tls_key, told.tls_ca) if told.tls_cert else None,
        # A buffered body comes as one message.
        max_message_bytes=settings.limits.max_body_bytes + (1 << 20),
    )


def build(
    settings: gateway_settings.GatewaySettings, loop: asyncio.AbstractEventLoop
) -> tuple[lifecycle.Lifecycle, tuple[str, int], tuple[str, int]]:
    """The components of a gateway in their order, and the addresses of its two ports."""
    clock = clocks.SystemClock()
    keys = read_keys(settings.api_keys_file)
    check_tls(settings)
    limits = limits_of(settings.limits)

    def connect(record: WorkerRecord) -> upstream.Connections:
        target = targets.get(record.id)
        return static.connections_of(
            loop,
            record.endpoint.host,
            record.endpoint.port,
            target is not None and target.tls,
            limits.connect_timeout_s,
        )

    targets = {target.id: target for target in map(static.Target, settings.endpoints)}
    if len(targets) != len(settings.endpoints):
        raise errors.SettingsError("endpoints: the same server is given twice")
    endpoints = fleet.Fleet(prefix.PrefixIndex(settings.index.budget_bytes), connect)
    owner = gateway.Gateway(loop, endpoints, profiles.by_name(settings.policy), limits, settings.id)
    owner.profile_of_model = {model: profiles.by_name(name) for model, name in settings.policies.items()}
    health = degraded.Degraded(clock)

    sock = listen(settings.host, settings.port, shared=settings.redis_url is not None)
    admin_sock = listen(settings.admin_host, settings.admin_port, shared=False)
    address, admin_address = sock.getsockname()[:2], admin_sock.getsockname()[:2]
    protocol = functools.partial(front.FrontProtocol, owner, keys)
    server = _http(app.public(owner, health, keys), sock, settings, protocol, tls=True)
    admin_server = _http(app.admin(owner, health), admin_sock, settings, "httptools", tls=False)

    life = lifecycle.Lifecycle("gateway")
    if settings.redis_url is not None:
        link = redis_link.RedisLink(settings.redis_url.get_secret_value(), clock, name=settings.id)
        wire_keys = wire.Keys(settings.namespace)
        store = registry.RedisRegistry(link.client, wire_keys)
        policies = deployments.DeploymentPolicies(owner, link.client, wire_keys, health, dict(owner.profile_of_model))
        shown = settings.advertise_host
        source = registered.RegisteredSource(
            owner, link, store, clock, health,
            (shown or address[0], address[1]), (shown or admin_address[0], admin_address[1]), policies,
        )  # fmt: skip
        share = sharing.Sharing(
            owner, link, wire_keys, clock, health,
            interval_s=settings.share.interval_s, peer_timeout_s=settings.share.peer_timeout_s,
        )  # fmt: skip
        life.add("redis", link)
        life.add("admin", admin_server)
        life.add("registry", source)
        life.add("sharing", share)
    else:
        life.add("admin", admin_server)
        life.add("endpoints", static.StaticSource(owner, list(targets.values()), settings.model, clock))
    life.add("ticker", Ticker(owner, prober.Prober(owner, clock), server, health))
    if settings.picker.port is not None:
        life.add("picker", _picker(settings, owner, keys))
    life.add("http", server, stop_timeout_s=settings.limits.drain_s + 5.0)
    if settings.tls_cert is not None and settings.tls_key is not None:
        renewal = certificates.Renewal(settings.tls_cert, settings.tls_key, lambda: server.config.ssl, clock)
        life.add("certificates", renewal)
    life.add("readiness", Draining(owner))
    return life, address, admin_address


async def serve(settings: gateway_settings.GatewaySettings) -> int:
    """Runs a gateway until SIGTERM or SIGINT."""
    life, address, admin_address = build(settings, asyncio.get_running_loop())
    stopped = asyncio.Event()
    lifecycle.stop_on_signals(stopped)
    log = logs.get("gateway")
    await life.start()
    log.info(
        "gateway_ready", id=settings.id, address=f"{address[0]}:{address[1]}",
        admin=f"{admin_address[0]}:{admin_address[1]}", policy=settings.policy,
        compiled=compiled.in_use(),
    )  # fmt: skip
    await stopped.wait()
    failed = await life.stop()
    log.info("gateway_stopped", id=settings.id, overran=failed)
    return 1 if failed else 0


def calm_collector() -> None:
    """Makes the garbage collector look seldom: requests leave no cycles, and a look at all objects stops every stream."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def run(settings: gateway_settings.GatewaySettings) -> int:
    """Entry point of a gateway process; returns its exit status. Raises PenstockError where it cannot start."""
    calm_collector()
    logs.configure(settings.log)
    status: int = uvloop.run(serve(settings))
    return status

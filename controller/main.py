"""Builds a controller from its settings and runs it."""

from __future__ import annotations

import functools
import json
import pathlib

import pydantic

from controller import leader, loop, metrics, scrape, service, store
from controller import settings as controller_settings
from controller.hosts import none, port
from penstock.api import types, wire
from penstock.api.proto import control_pb2_grpc
from penstock.runtime import clock as clocks
from penstock.runtime import errors, grpcs, lifecycle, registry
from penstock.runtime import redis as redis_link


class AddressFile:
    """Tells the gRPC address to whoever started us."""

    def __init__(self, path: pathlib.Path | None, server: grpcs.GrpcServer) -> None:
        self._path, self._server = path, server

    async def start(self) -> None:
        """Writes it whole or not at all."""
        if self._path is not None:
            partial = self._path.with_suffix(".tmp")
            partial.write_text(self._server.address)
            partial.replace(self._path)

    async def stop(self) -> None:
        """Leaves it: the next controller of the fleet writes it anew."""


def read_deployments(path: pathlib.Path | None) -> tuple[types.ModelDeployment, ...]:
    """The deployments to create in an empty namespace. Raises `SettingsError` that names file and field."""
    if path is None:
        return ()
    try:
        return tuple(pydantic.TypeAdapter(list[types.ModelDeployment]).validate_python(json.loads(path.read_text())))
    except (OSError, ValueError) as exc:
        raise errors.SettingsError(f"deployments_file {path}: {exc}") from exc


def make_host(settings: controller_settings.ControllerSettings) -> port.WorkerHost:
    """The host that the settings name."""
    if settings.host == "none":
        return none.NoHost()
    if settings.host == "process":
        from controller.hosts import process

        return process.ProcessHost(settings.log_dir)
    from controller.hosts import ray

    # A namespace holds no dot, so no name of another one begins with this.
    prefix = f"penstock.{settings.namespace}."
    return ray.RayHost(settings.ray_address, address_file=settings.ray_address_file, app_prefix=prefix)


def build(settings: controller_settings.ControllerSettings) -> tuple[lifecycle.Lifecycle, grpcs.GrpcServer]:
    """The components in their order, and the server that tells the port."""
    clock = clocks.SystemClock()
    keys = wire.Keys(settings.namespace)
    link = redis_link.RedisLink(settings.redis_url.get_secret_value(), clock, name=settings.id)
    reg = registry.RedisRegistry(link.client, keys)
    # A new name for each process: a restarted controller does not pass for the one before it.
    holder = f"{settings.id}-{int(clock.now_s() * 1000):x}"
    lead = leader.Leader(link.client, keys, clock, holder, lease_s=settings.lease_s)
    watcher = registry.RegistryWatcher(reg, link, clock, lambda *_: None)
    scraper = scrape.Scraper(clock, interval_s=settings.scrape_s)
    host = make_host(settings)
    initial = read_deployments(settings.deployments_file)
    kept = store.Store(link.client, keys, lead, clock)
    work = loop.Loop(settings, lead, kept, watcher, reg, host, scraper, clock, initial)
    folder = settings.agent_tls if settings.host == "none" else None
    agents = grpcs.Tls(folder / "tls.crt", folder / "tls.key", folder / "ca.crt") if folder is not None else None
    control = service.Control(work, lead, watcher, reg, link, scraper, keys, settings.namespace, agents)
    tls = grpcs.Tls(settings.tls_cert, settings.tls_key, settings.tls_ca) if settings.tls_cert else None
    server = grpcs.GrpcServer(
        [(service.SERVICE, functools.partial(control_pb2_grpc.add_ControlServicer_to_server, control))],
        host=settings.grpc_host,
        port=settings.grpc_port,
        tls=tls,
    )
    life = lifecycle.Lifecycle("controller")
    life.add("redis", link)
    life.add("registry", watcher)
    life.add("host", host)
    life.add("scraper", scraper)
    life.add("metrics", metrics.MetricsServer(scraper.calibrations, settings.metrics_host, settings.metrics_port))
    life.add("loop", work)
    life.add("grpc", server)
    life.add("address", AddressFile(settings.grpc_address_file, server))
    return life, server


async def serve(settings: controller_settings.ControllerSettings) -> int:
    """Runs until SIGTERM or SIGINT; workers stay as they are."""
    life, server = build(settings)
    return await lifecycle.until_signalled(life, "controller", lambda: {"id": settings.id, "grpc": server.address})

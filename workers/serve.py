"""A worker as a Ray Serve application of one replica.

Requests do not pass through Ray: the replica serves a port of its own and registers it. Serve starts the replica again
where `check_health` fails or its process dies, and on deletion awaits `__del__`, which drains.
"""

from __future__ import annotations

from typing import Any

import ray
from ray import serve

from penstock.runtime import errors, logs
from workers import control
from workers.hosting import spec, worker

HEALTH_PERIOD_S = 1.0
HEALTH_TIMEOUT_S = 10.0


def keep_to_loopback() -> None:
    """Makes Serve's own server in this replica, for calls between deployments, listen on 127.0.0.1 only.

    Ray binds it to every interface and has no setting for it (2.60); nothing calls a worker through it.
    """
    from ray.serve._private import replica

    bind = getattr(replica, "add_port_to_grpc_server", None)
    if bind is None:
        logs.get("worker").warning("ray_port_not_restricted", reason="this Ray starts its server another way")
        return

    def on_loopback(server: Any, address: str) -> int:
        port: int = bind(server, address.replace("[::]:", "127.0.0.1:"))
        return port

    replica.add_port_to_grpc_server = on_loopback


class Replica:
    """Serve's view of one worker."""

    async def __init__(self, config_json: str) -> None:  # type: ignore[misc]
        logs.configure(logs.LogSettings(format="json"))
        config = spec.WorkerSpec.model_validate_json(config_json)
        if config.host == "auto":
            config = config.model_copy(update={"host": ray.util.get_node_ip_address()})
        if config.host in ("127.0.0.1", "::1", "localhost"):
            keep_to_loopback()
        self._worker = worker.Worker(config)
        self._commands = control.Server(config, self._worker.agent)
        try:
            self._worker.agent.control_port = await self._commands.start()
            await self._worker.start()
        except BaseException:
            await self._commands.stop()
            raise

    async def check_health(self) -> None:
        """Raises where the engine is dead or another incarnation took over; Serve then replaces the replica.

        A worker that whoever keeps it has drained is well: it would come back if Serve replaced it. One that was drained by
        a command has to.
        """
        if self._worker.agent.ended.is_set() and self._worker.agent.failure is None:
            if self._commands.drain_asked:
                raise errors.TerminalError("it was drained by a command: another takes its place")
            return
        if not await self._worker.agent.healthy():
            raise errors.TerminalError(self._worker.agent.failure or "the engine does not run")

    async def __call__(self) -> str:
        """Serve wants a callable; nothing calls it."""
        record = self._worker.agent.record
        return record.endpoint.address if record is not None else ""

    async def __del__(self) -> None:
        started = getattr(self, "_worker", None)
        if started is not None:
            await started.drain()
            await self._commands.stop()


def application(config: spec.WorkerSpec, runtime_env: dict[str, Any] | None = None) -> serve.Application:
    """The application to run under the worker's id, without a route."""
    options: dict[str, Any] = {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus}
    if runtime_env:
        options["runtime_env"] = runtime_env
    deployment = serve.deployment(
        Replica,
        name="worker",
        num_replicas=1,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=config.drain_s + config.settle_s + 45.0,
        max_ongoing_requests=8,
        ray_actor_options=options,
    )
    bound: serve.Application = deployment.bind(config.model_dump_json())
    return bound


def build(args: dict[str, str]) -> serve.Application:
    """The application of a RayService: `spec` is a worker's specification as JSON; its host may be `auto`, the node's."""
    return application(spec.WorkerSpec.model_validate_json(args["spec"]))

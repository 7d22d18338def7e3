"""`penstock up`: Redis, Ray, controller, gateways and workers as one fleet under one process."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable

from controller import ray_node
from controller.local import client, existing, options, ports, state, supervisor
from penstock.api.proto import control_pb2
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, errors, lifecycle, processes, tasks

_STOP_GATEWAY_S = 35.0
_STOP_S = 8.0
# Drained workers have nothing left once the gateways have stopped.
_STOP_WORKERS_S = 30.0


class PortTaken(errors.TerminalError):
    """The client port is in use; the message says by whom."""


class Up:
    """One local fleet. Everything that it starts is a child of this process and ends with it, however it ends."""

    def __init__(self, opts: options.UpOptions, clock: clocks.Clock, tell: Callable[[str], None]) -> None:
        self._opts, self._clock, self._tell = opts, clock, tell
        self._owned = opts.run_dir is None
        self._dir = pathlib.Path()
        self._ray_temp: pathlib.Path | None = None
        self._reserved: socket.socket | None = None
        self._redis: embedded_redis.EmbeddedRedis | None = None
        self._redis_url = opts.redis_url or ""
        self._existing: existing.ExistingRedis | None = None
        self._ray: processes.Child | None = None
        self._controller: processes.Child | None = None
        self._gateways: list[processes.Child] = []
        self._supervisor = supervisor.Supervisor(clock, tell)
        self._applied = False
        self.port = opts.port
        self.controller_address = ""

    async def run(self, stopped: asyncio.Event, on_ready: Callable[[Up], None]) -> None:
        """Starts the fleet, waits for `stopped`, stops it. Raises `PortTaken`, `StartError`; nothing is left then."""
        try:
            starting = asyncio.create_task(self._start(), name="up-start")
            stopping = asyncio.create_task(stopped.wait())
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                await tasks.cancel([starting])
                return
            await starting
            on_ready(self)
            await stopping
        finally:
            await self.stop()

    async def _start(self) -> None:
        began_s = self._clock.monotonic_s()
        self._prepare()
        await self._supervisor.start()
        if self._opts.ray_address is None:
            self._start_ray()
        if self._opts.redis_url is None:
            self._redis = embedded_redis.EmbeddedRedis(self._dir / "redis", self._clock)
            await self._redis.start()
            assert self._redis.child is not None
            self._redis_url = self._redis.url
            self._supervisor.watch(self._redis.child, self._restart_redis)
            self._tell(f"redis      ready on 127.0.0.1:{self._redis.port}")
        else:
            found = existing.ExistingRedis(self._opts.redis_url, self._opts.namespace, self._clock)
            await found.claim()
            self._existing = found
            self._tell(f"redis      {found.url_masked}, namespace {self._opts.namespace}")
        _write_secret(self._dir / "redis.url", self._redis_url)
        self._start_controller()
        for number in range(self._opts.gateways):
            self._start_gateway(number)
        await self._wait_ready(began_s)

    def _prepare(self) -> None:
        state.clear_stale()
        self._reserved = ports.reserve(self._opts.host, self._opts.port)
        if self._reserved is None:
            raise PortTaken(
                f"port {self._opts.port} on {self._opts.host} is taken by {ports.holder(self._opts.port)}; "
                "choose another with --port"
            )
        self.port = self._reserved.getsockname()[1]
        if self._opts.run_dir is not None:
            self._dir = self._opts.run_dir.absolute()
            self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        else:
            self._dir = pathlib.Path(tempfile.mkdtemp(prefix="penstock-"))
        for name in ("logs", "tmp"):
            (self._dir / name).mkdir(exist_ok=True)
        for name in ("ray.address", "controller.address"):
            (self._dir / name).unlink(missing_ok=True)
        # Before anything runs, so that what a killed command leaves is found.
        self._write_state()

    def _environment(self) -> dict[str, str]:
        """Ours, without settings of Penstock components that were meant for others, with what our own Ray needs."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_WORKER_")}
        # How to reach an existing Ray (its token, say) is in the environment already.
        return {**kept, **(ray_node.environment(self._dir) if self._opts.ray_address is None else {})}

    def _start_ray(self) -> None:
        temp = self._dir / "ray"
        if len(str(temp)) > ray_node.MAX_TEMP_DIR:
            temp = self._ray_temp = pathlib.Path(tempfile.mkdtemp(prefix="penstock-ray-"))
            self._write_state()
        argv = [
            *(sys.executable, "-m", "controller.ray_node", "--run-dir", str(self._dir), "--temp-dir", str(temp)),
            *("--address-file", str(self._dir / "ray.address"), "--num-cpus", str(max(64, self._opts.workers * 2))),
        ]
        # SIGTERM lets it end Ray's own helpers, which would outlive a killed Ray for a minute.
        self._ray = self._child("ray", argv, self._environment(), signal.SIGTERM)
        self._supervisor.watch(self._ray, self._restart_ray)

    def _start_controller(self) -> None:
        file = self._dir / "deployments.json"
        file.write_text(json.dumps([self._opts.deployment().model_dump(mode="json")]))
        env = self._environment()
        env |= {
            "PENSTOCK_CONTROLLER_REDIS_URL": self._redis_url,
            "PENSTOCK_CONTROLLER_NAMESPACE": self._opts.namespace,
            "PENSTOCK_CONTROLLER_DEPLOYMENTS_FILE": str(file),
            "PENSTOCK_CONTROLLER_GRPC_ADDRESS_FILE": str(self._dir / "controller.address"),
            "PENSTOCK_CONTROLLER_WORKER_REDIS_URL_FILE": str(self._dir / "redis.url"),
            # Engines that are killed cannot tidy up; this folder goes with the fleet.
            "PENSTOCK_CONTROLLER_WORKER_TEMP_DIR": str(self._dir / "tmp"),
            "PENSTOCK_CONTROLLER_GRPC_PORT": str(processes.free_port()),
        }
        if self._opts.ray_address is not None:
            env["PENSTOCK_CONTROLLER_RAY_ADDRESS"] = self._opts.ray_address
        else:
            env["PENSTOCK_CONTROLLER_RAY_ADDRESS_FILE"] = str(self._dir / "ray.address")
        self._controller = self._child("controller", [sys.executable, "-m", "controller"], env)
        self._supervisor.watch(self._controller)

    def _start_gateway(self, number: int) -> None:
        name = f"gw-{number}"
        env = self._environment() | {
            "PENSTOCK_GATEWAY_REDIS_URL": self._redis_url,
            "PENSTOCK_GATEWAY_NAMESPACE": self._opts.namespace,
        }
        argv = [
            *(sys.executable, "-m", "router.server", "--id", name, "--host", self._opts.host),
            *("--port", str(self.port), "--admin-port", str(processes.free_port()), "--policy", self._opts.policy),
        ]
        child = self._child(name, argv, env)
        self._gateways.append(child)
        self._supervisor.watch(child)

    def _child(
        self, name: str, argv: list[str], env: dict[str, str], death_signal: int = signal.SIGKILL
    ) -> processes.Child:
        log_path = self._dir / "logs" / f"{name}.log"
        child = processes.Child(name, argv, env=env, log_path=log_path, death_signal=death_signal)
        child.spawn()
        return child

    async def _restart_redis(self) -> None:
        assert self._redis is not None and self._redis.child is not None
        # The same port and password: everybody reconnects.
        self._redis.child.spawn()

    async def _restart_ray(self) -> None:
        """A new Ray has another address; the controller connects anew."""
        (self._dir / "ray.address").unlink(missing_ok=True)
        assert self._ray is not None
        self._ray.spawn()
        if self._controller is not None:
            self._controller.signal(signal.SIGTERM)

    async def _wait_ready(self, began_s: float) -> None:
        """Until every gateway and worker is ready, telling of each step once."""
        deadline_s = began_s + self._opts.ready_timeout_s + (300.0 if self._opts.engine == "vllm" else 0.0)
        told: set[str] = set()

        def once(line: str) -> None:
            if line not in told:
                told.add(line)
                self._tell(line)

        address_file = self._dir / "controller.address"
        while True:
            self._check_children()
            if self._clock.monotonic_s() > deadline_s:
                raise errors.StartError(
                    f"the fleet was not ready within {deadline_s - began_s:g} s; logs are in {self._dir / 'logs'}\n"
                    + self._last_words()
                )
            if (self._dir / "ray.address").exists():
                once("ray        ready")
            if address_file.exists():
                self.controller_address = address_file.read_text().strip()
                once(f"controller ready on {self.controller_address}")
                self._write_state()
                view = await client.Controller(self.controller_address).get_fleet()
                if view is not None and await self._wanted(view):
                    ours = [item for item in view.deployments if item.name == self._opts.deployment().name]
                    ready = sum(pool.ready for item in ours for pool in item.pools)
                    if view.gateways:
                        once(f"gateways   {len(view.gateways)} of {self._opts.gateways} ready")
                    if ready:
                        once(f"workers    {ready} of {self._opts.workers} ready")
                    # A gateway that has not taken the workers in yet says so.
                    served = sum(1 for item in view.gateways if not (self._opts.workers and item.degraded))
                    if ready >= self._opts.workers and served >= self._opts.gateways:
                        return
            await self._clock.sleep(0.1)

    async def _wanted(self, view: control_pb2.Fleet) -> bool:
        """Whether the fleet is told what we want; a namespace that was in use knows what was wanted before."""
        if self._existing is None or self._existing.was_empty or self._applied:
            return True
        if not view.controller.leader:
            return False
        request = control_pb2.ApplyRequest(deployment_json=self._opts.deployment().model_dump_json())
        await client.Controller(self.controller_address).call("Apply", request)
        self._applied = True
        return False

    def _check_children(self) -> None:
        """A child that cannot start at all ends the start: it would only fail again."""
        for child in (self._ray, self._controller, *self._gateways):
            if child is not None and child.exit_code is not None and child.exit_code > 0:
                raise errors.StartError(f"{child.name} ended with status {child.exit_code}:\n{child.log_tail()}")

    def _last_words(self) -> str:
        tails = [(child.name, child.log_tail(400)) for child in (self._ray, self._controller) if child is not None]
        return "\n".join(f"{name}: {tail}" for name, tail in tails)

    def _write_state(self) -> None:
        state.write(
            state.FleetState(
                pid=os.getpid(),
                port=self.port,
                host=self._opts.host,
                controller=self.controller_address,
                run_dir=str(self._dir),
                owned=self._owned,
                ray_temp=str(self._ray_temp) if self._ray_temp is not None else None,
            )
        )

    async def stop(self) -> None:
        """Gateways first, so that nothing new comes; then controller, Ray with the workers, Redis, files."""
        await self._supervisor.stop()
        await asyncio.gather(*(child.stop(_STOP_GATEWAY_S) for child in self._gateways))
        if self._opts.ray_address is not None and self.controller_address:
            await self._stop_workers()
        for child in (self._controller, self._ray):
            if child is not None:
                await child.stop(_STOP_S)
        if self._redis is not None:
            await self._redis.stop()
        if self._existing is not None:
            await self._leave_redis(self._existing)
        if self._reserved is not None:
            self._reserved.close()
            state.remove(self.port)
        if self._ray_temp is not None:
            shutil.rmtree(self._ray_temp, ignore_errors=True)
        for name in ("redis.url", "ray.token", "ray.address", "controller.address"):
            (self._dir / name).unlink(missing_ok=True)
        if self._owned and self._dir != pathlib.Path():
            shutil.rmtree(self._dir, ignore_errors=True)

    async def _stop_workers(self) -> None:
        """On a Ray that stays, workers would stay too: has all of them drained and waits for it."""
        controller = client.Controller(self.controller_address)
        deadline_s = self._clock.monotonic_s() + _STOP_WORKERS_S
        try:
            while (view := await controller.get_fleet()) is not None:
                pools = [(item.name, pool) for item in view.deployments for pool in item.pools]
                for name, pool in pools:
                    if pool.wanted:
                        request = control_pb2.ScaleRequest(deployment=name, role=pool.role, replicas=0)
                        await controller.call("Scale", request)
                if not any(pool.wanted + pool.ready + pool.starting + pool.draining for _, pool in pools):
                    return
                if self._clock.monotonic_s() > deadline_s:
                    break
                await self._clock.sleep(0.1)
            self._tell(f"workers    not all stopped; look for Serve applications on Ray at {self._opts.ray_address}")
        except errors.PenstockError as exc:
            self._tell(f"workers    not stopped on Ray at {self._opts.ray_address}: {exc}")

    async def _leave_redis(self, found: existing.ExistingRedis) -> None:
        try:
            await found.leave()
        except errors.PenstockError as exc:
            self._tell(f"redis      namespace {self._opts.namespace} was not removed: {exc}")


def _write_secret(path: pathlib.Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        handle.write(text)


async def run(opts: options.UpOptions, tell: Callable[[str], None], on_ready: Callable[[Up], None]) -> None:
    """Runs a fleet until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    lifecycle.stop_on_signals(stopped)
    await Up(opts, clocks.SystemClock(), tell).run(stopped, on_ready)

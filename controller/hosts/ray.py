"""Workers on Ray Serve, one application each (Serve cannot be told which replica of an application to stop)."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from controller.policy import fleet
from penstock.runtime import errors, logs
from workers.hosting import spec

T = TypeVar("T")

NAMESPACE = "penstock"
_CALL_TIMEOUT_S = 60.0


class RayHost:
    """See `port.WorkerHost`. Connects as a driver; Ray and the workers live on when this process ends."""

    def __init__(self, address: str, *, address_file: pathlib.Path | None = None, app_prefix: str) -> None:
        """`address_file`: where a Ray that is being started will write its address; `address` is then empty.

        `app_prefix` tells this fleet's applications from others' on a shared cluster: what is not so named is not ours,
        and a hosted worker that nobody wants is stopped.
        """
        self._address, self._address_file, self._prefix = address, address_file, app_prefix
        self._log = logs.get("ray-host")
        self._lock = asyncio.Lock()
        self._connected = False

    async def start(self) -> None:
        """Connects in the background of the first call: a Ray that is away is no reason not to start."""

    async def stop(self) -> None:
        """Disconnects."""
        if self._connected:
            import ray

            self._connected = False
            await asyncio.to_thread(ray.shutdown)

    async def start_workers(self, specs: Sequence[spec.WorkerSpec]) -> None:
        """One call for all of them."""

        def run() -> None:
            from ray import serve

            from workers import serve as worker_app

            targets = [
                serve.RunTarget(target=worker_app.application(item), name=self._prefix + item.id, route_prefix=None)
                for item in specs
            ]
            serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

        if specs:
            await self._call("start workers", run)

    async def stop_worker(self, worker_id: str) -> None:
        """Deletes the application; its destructor drains."""

        def run() -> None:
            from ray import serve

            serve.delete(self._prefix + worker_id, _blocking=False)

        await self._call(f"stop {worker_id}", run)

    async def list(self) -> dict[str, fleet.Hosting]:
        """Applications of this fleet."""

        def run() -> dict[str, str]:
            from ray import serve

            return {name: str(app.status.value) for name, app in serve.status().applications.items()}

        states = await self._call("list", run)
        return {
            name.removeprefix(self._prefix): _hosting(status)
            for name, status in states.items()
            if name.startswith(self._prefix)
        }

    async def _call(self, what: str, function: Callable[[], T]) -> T:
        """Runs Ray's blocking call beside the loop, one at a time, and translates what it raises."""
        async with self._lock:
            try:
                async with asyncio.timeout(_CALL_TIMEOUT_S):
                    await self._connect()
                    return await asyncio.to_thread(function)
            except errors.PenstockError:
                raise
            except TimeoutError as exc:
                raise errors.RetryableError(f"ray: {what}: no answer within {_CALL_TIMEOUT_S:g} s") from exc
            except Exception as exc:
                raise errors.RetryableError(f"ray: {what}: {type(exc).__name__}: {exc}") from exc

    async def _connect(self) -> None:
        if self._connected:
            return
        address = self._address
        if self._address_file is not None:
            try:
                address = self._address_file.read_text().strip()
            except OSError as exc:
                raise errors.RetryableError("ray: still starting") from exc

        def run() -> None:
            import ray
            from ray import serve

            options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "warning"}
            if not ray.is_initialized():
                ray.init(address=address, **options)
            serve.start(proxy_location="Disabled")

        await asyncio.to_thread(run)
        self._connected = True
        self._log.info("ray_connected", address=address)


def _hosting(status: str) -> fleet.Hosting:
    if status == "RUNNING":
        return fleet.Hosting.RUNNING
    if status == "DEPLOY_FAILED":
        return fleet.Hosting.FAILED
    if status == "DELETING":
        return fleet.Hosting.STOPPING
    # UNHEALTHY: Serve is replacing the replica itself.
    return fleet.Hosting.STARTING

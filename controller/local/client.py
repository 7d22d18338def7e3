"""Short calls to a controller."""

from __future__ import annotations

import dataclasses
from typing import Any

from grpc import aio

from penstock.api.proto import control_pb2, control_pb2_grpc
from penstock.runtime import errors, grpcs


@dataclasses.dataclass(frozen=True)
class Controller:
    """Where a controller's gRPC API is (`host:port`), and the PEM files to speak TLS with it."""

    address: str
    tls: grpcs.Tls | None = None

    async def call(self, method: str, request: Any, *, timeout_s: float = 5.0) -> Any:
        """One unary call.

        Raises `RetryableError` where the controller is not reached, `TerminalError` where it refuses, `SettingsError`
        for a PEM file that cannot be read.
        """
        async with grpcs.channel(self.address, timeout_s=timeout_s, tls=self.tls) as channel:
            stub = control_pb2_grpc.ControlStub(channel)  # type: ignore[no-untyped-call]
            try:
                return await getattr(stub, method)(request)
            except aio.AioRpcError as exc:
                raise grpcs.translate(exc, f"controller at {self.address}") from exc

    async def get_fleet(self) -> control_pb2.Fleet | None:
        """The fleet, None while it cannot be asked. Raises `SettingsError` as `call` does."""
        try:
            fleet: control_pb2.Fleet = await self.call("GetFleet", control_pb2.GetFleetRequest(), timeout_s=2.0)
        except errors.SettingsError:
            raise
        except errors.PenstockError:
            return None
        return fleet

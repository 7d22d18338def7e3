"""Short calls to a controller."""

from __future__ import annotations

from typing import Any

from grpc import aio

from penstock.api.proto import control_pb2, control_pb2_grpc
from penstock.runtime import errors, grpcs


async def call(address: str, method: str, request: Any, *, timeout_s: float = 5.0) -> Any:
    """One unary call. Raises `RetryableError` where the controller is not reached, `TerminalError` where it refuses."""
    async with grpcs.channel(address, timeout_s=timeout_s) as channel:
        stub = control_pb2_grpc.ControlStub(channel)  # type: ignore[no-untyped-call]
        try:
            return await getattr(stub, method)(request)
        except aio.AioRpcError as exc:
            raise grpcs.translate(exc, f"controller at {address}") from exc


async def get_fleet(address: str) -> control_pb2.Fleet | None:
    """The fleet, None while it cannot be asked."""
    try:
        fleet: control_pb2.Fleet = await call(address, "GetFleet", control_pb2.GetFleetRequest(), timeout_s=2.0)
    except errors.PenstockError:
        return None
    return fleet

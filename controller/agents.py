"""Commands to the agents of single workers, over gRPC with certificates of one CA on both sides."""

from __future__ import annotations

import dataclasses
from typing import Any

from grpc import aio

from penstock.api import types
from penstock.api.proto import agent_pb2, agent_pb2_grpc
from penstock.runtime import errors, grpcs


@dataclasses.dataclass(frozen=True)
class Agent:
    """One agent's gRPC API (`host:port`), and the PEM files that open it."""

    address: str
    tls: grpcs.Tls

    async def status(self, worker: str) -> agent_pb2.Status:
        """The worker as its agent sees it. Raises as `drain` does."""
        found: agent_pb2.Status = await self._call("GetStatus", agent_pb2.GetStatusRequest(worker=worker))
        return found

    async def drain(self, worker: str, timeout_s: float | None = None) -> agent_pb2.Status:
        """Begins to drain it; may be repeated.

        Raises `RetryableError` where the agent is not reached or does not take the certificate (TLS does not tell them
        apart), `TerminalError` where it refuses, `SettingsError` for a PEM file that cannot be read.
        """
        found: agent_pb2.Status = await self._call("Drain", agent_pb2.DrainRequest(worker=worker, timeout_s=timeout_s))
        return found

    async def _call(self, method: str, request: Any) -> Any:
        async with grpcs.channel(self.address, timeout_s=3.0, tls=self.tls, server_name=grpcs.AGENT_NAME) as channel:
            stub = agent_pb2_grpc.AgentStub(channel)  # type: ignore[no-untyped-call]
            try:
                return await getattr(stub, method)(request)
            except aio.AioRpcError as exc:
                raise grpcs.translate(exc, f"agent at {self.address}") from exc


def of_worker(record: types.WorkerRecord, tls: grpcs.Tls) -> Agent:
    """The agent of a registered worker. Raises `TerminalError` where it serves no API."""
    if record.control_port is None:
        raise errors.TerminalError(
            f"worker: the agent of {record.id!r} serves no gRPC API; on Kubernetes it does with the chart's "
            "agents.tls and its Secret in the worker's namespace, or else: `kubectl delete pod NAME`, which drains as well"
        )
    host = record.endpoint.host
    return Agent(f"[{host}]:{record.control_port}" if ":" in host else f"{host}:{record.control_port}", tls)

"""The agent's gRPC API (agent.proto): what its worker does, and the command to drain it.

It takes a worker away, so it is never open: both sides show certificates of one CA, and an agent's own certificate drains
no other worker.
"""

from __future__ import annotations

import functools
import math
import pathlib
from typing import Any, NoReturn

import grpc
from grpc import aio

from penstock.api.proto import agent_pb2, agent_pb2_grpc
from penstock.runtime import errors, grpcs, logs
from workers import agent
from workers.hosting import spec

SERVICE = agent_pb2.DESCRIPTOR.services_by_name["Agent"].full_name
_MAX_MESSAGE_BYTES = 64 * 1024
_MAX_TIMEOUT_S = 86_400.0


class Service(agent_pb2_grpc.AgentServicer):
    """Answers for one worker."""

    def __init__(self, worker: str, owner: agent.WorkerAgent) -> None:
        self._worker, self._agent = worker, owner
        self._log = logs.get("worker")
        # Whether somebody has asked the worker to drain.
        self.asked = False

    async def GetStatus(self, request: Any, context: aio.ServicerContext[Any, Any]) -> agent_pb2.Status:
        """FAILED_PRECONDITION where another worker is meant."""
        await self._meant_or_abort(request.worker, context)
        return await self._status()

    async def Drain(self, request: Any, context: aio.ServicerContext[Any, Any]) -> agent_pb2.Status:
        """INVALID_ARGUMENT for a time that is none, PERMISSION_DENIED for an agent, FAILED_PRECONDITION for another worker."""
        names = _names(context)
        if grpcs.AGENT_NAME in names:
            message = f"a certificate of {grpcs.AGENT_NAME} drains no worker: show one of another name"
            await _abort(context, grpc.StatusCode.PERMISSION_DENIED, message)
        await self._meant_or_abort(request.worker, context)
        timeout_s = request.timeout_s if request.HasField("timeout_s") else None
        if timeout_s is not None and not (math.isfinite(timeout_s) and 0 <= timeout_s <= _MAX_TIMEOUT_S):
            message = f"timeout_s: {timeout_s:g} is not from 0 to {_MAX_TIMEOUT_S:g}"
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, message)
        self._log.info("drain_asked", worker=self._worker, by=sorted(names), timeout_s=timeout_s)
        self.asked = True
        self._agent.begin_drain(timeout_s)
        return await self._status()

    async def _meant_or_abort(self, worker: str, context: aio.ServicerContext[Any, Any]) -> None:
        if worker != self._worker:
            # An address may have gone over to another Pod since the caller looked.
            message = f"worker: {worker[:64]!r} is not here; this is the agent of {self._worker}"
            await _abort(context, grpc.StatusCode.FAILED_PRECONDITION, message)

    async def _status(self) -> agent_pb2.Status:
        owner, record = self._agent, self._agent.record
        return agent_pb2.Status(
            worker=self._worker,
            incarnation=record.incarnation if record is not None else 0,
            state="ended" if owner.ended.is_set() else record.state.value if record is not None else "starting",
            in_flight=await owner.load(),
            drain_left_s=owner.drain_left_s,
        )


class Server:
    """The port of the API; none where the worker's specification has none, or where its certificate is not there yet."""

    def __init__(self, worker: spec.WorkerSpec, owner: agent.WorkerAgent, host: str = "") -> None:
        """`host`: the address to listen on; empty: the worker's own."""
        self._spec, self._host = worker, host or worker.host
        self._service = Service(worker.id, owner)
        self._server: grpcs.GrpcServer | None = None
        self._log = logs.get("worker")

    @property
    def drain_asked(self) -> bool:
        """Whether a command has drained the worker."""
        return self._service.asked

    async def start(self) -> int | None:
        """The port it listens on. Raises `StartError` where that is taken.

        Without its files it serves nothing, and says so: a Secret that is missing keeps no engine from serving.
        """
        folder = self._spec.control_tls
        if self._spec.control_port is None or folder is None:
            return None
        tls = grpcs.Tls(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
        missing = [str(path) for path in (tls.cert, tls.key, tls.ca) if not _there(path)]
        if missing:
            self._log.warning("control_not_served", worker=self._spec.id, missing=missing)
            return None
        register = functools.partial(agent_pb2_grpc.add_AgentServicer_to_server, self._service)
        self._server = grpcs.GrpcServer(
            [(SERVICE, register)],
            host=self._host,
            port=self._spec.control_port,
            tls=tls,
            max_message_bytes=_MAX_MESSAGE_BYTES,
        )
        return await self._server.start()

    async def stop(self) -> None:
        """Lets calls end, closes the port."""
        if self._server is not None:
            await self._server.stop(1.0)


def _there(path: pathlib.Path | None) -> bool:
    return path is not None and path.is_file()


def _names(context: aio.ServicerContext[Any, Any]) -> set[str]:
    """The names in the caller's certificate, which gRPC has checked."""
    found = context.auth_context()
    keys = ("x509_common_name", "x509_subject_alternative_name")
    return {value.decode(errors="replace") for key in keys for value in found.get(key, ())}


async def _abort(context: aio.ServicerContext[Any, Any], code: grpc.StatusCode, message: str) -> NoReturn:
    await context.abort(code, message)
    raise errors.TerminalError(message)

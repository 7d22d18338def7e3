"""The gRPC API of control.proto."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import pydantic
import redis.asyncio as aioredis
from grpc import aio

from controller import kv_reports, leader, loop, scrape
from penstock import __version__
from penstock.api import invalid, types, wire
from penstock.api.proto import control_pb2, control_pb2_grpc
from penstock.runtime import errors, grpcs, registry
from penstock.runtime import redis as redis_link
from router.policy import profiles

SERVICE = control_pb2.DESCRIPTOR.services_by_name["Control"].full_name
_EXPLAIN_TIMEOUT_S = 2.0
_EVENT_ID = re.compile(r"^\d+(-\d+)?$")
_REQUEST_ID = re.compile(r"^[\x21-\x7e]{1,256}$")


class Control(control_pb2_grpc.ControlServicer):
    """Reads from what the loop knows; writes through it."""

    def __init__(
        self,
        work: loop.Loop,
        lead: leader.Leader,
        watcher: registry.RegistryWatcher,
        reg: registry.Registry,
        link: redis_link.RedisLink,
        scraper: scrape.Scraper,
        keys: wire.Keys,
        namespace: str,
        agent_tls: grpcs.Tls | None = None,
    ) -> None:
        """`agent_tls`: what opens workers' agents, where another than this controller keeps the workers."""
        self._agent_tls = agent_tls
        self._loop, self._leader, self._watcher, self._registry = work, lead, watcher, reg
        self._link, self._scraper, self._keys, self._namespace = link, scraper, keys, namespace
        self._kv_reports = kv_reports.KvReports(link.client, keys)
        self._gateways: list[types.RegisteredGateway] = []
        self._nodes: list[types.RegisteredNode] = []

    @property
    def _redis(self) -> aioredis.Redis:
        return self._link.client

    async def GetFleet(self, request: Any, context: aio.ServicerContext[Any, Any]) -> control_pb2.Fleet:
        """Answers also without Redis: with what was last known, leases unknown, and the reason."""
        leases: dict[str, float | None] = {}
        reachable = True
        try:
            leases = {item.record.id: item.lease_left_s for item in await self._registry.snapshot()}
            self._gateways = await self._registry.gateways()
            self._nodes = await self._registry.nodes()
            await self._kv_reports.refresh(self._watcher.workers)
        except errors.RetryableError:
            reachable = False
        fleet = control_pb2.Fleet(namespace=self._namespace, version=__version__)
        for record in sorted(self._watcher.workers.values(), key=lambda item: item.id):
            fleet.workers.append(self._worker(record, leases.get(record.id)))
        for gateway in self._gateways:
            fleet.gateways.append(_gateway(gateway, reachable))
        for node in self._nodes:
            fleet.nodes.append(_node(node, reachable))
        for deployment in self._loop.deployments.values():
            fleet.deployments.append(self._deployment(deployment))
        fleet.controller.CopyFrom(
            control_pb2.Controller(
                id=self._leader.holder or "",
                leader=self._leader.leading,
                epoch=self._leader.epoch,
                lease_left_s=self._leader.lease_left_s if reachable else None,
            )
        )
        for component, (reason, since_s) in sorted(self._loop.degraded.reasons.items()):
            fleet.degraded.append(control_pb2.Degraded(component=component, reason=reason, since_s=since_s))
        if not reachable and "redis" not in self._loop.degraded.reasons:
            # Noticed here first: the loop's own look may still wait for its answer.
            reason = "Redis does not answer; what is shown is what was last known"
            since_s = self._loop.degraded.clock.now_s()
            fleet.degraded.append(control_pb2.Degraded(component="redis", reason=reason, since_s=since_s))
        return fleet

    def _worker(self, record: types.WorkerRecord, left_s: float | None) -> control_pb2.Worker:
        reading = self._scraper.reading(record.id)
        # An engine that does not count them itself tells of each by its KV events.
        cached = reading.cached_blocks if reading else None
        if cached is None:
            cached = self._kv_reports.cached_blocks(record)
        return control_pb2.Worker(
            id=record.id,
            incarnation=record.incarnation,
            deployment=record.deployment,
            model=record.model,
            role=record.role,
            address=record.endpoint.address,
            state=record.state.value,
            engine=record.engine,
            engine_version=record.engine_version,
            simulated=record.simulated,
            lease_left_s=left_s,
            running=reading.stats.running if reading else None,
            waiting=reading.stats.waiting if reading else None,
            kv_usage=reading.stats.kv_usage if reading else None,
            kv_blocks=record.capacity.kv_blocks or (reading.stats.kv_blocks if reading else None),
            cached_blocks=cached,
            pid=record.pid or 0,
            started_at_s=record.started_at_s,
        )

    def _deployment(self, deployment: types.ModelDeployment) -> control_pb2.Deployment:
        out = control_pb2.Deployment(
            name=deployment.name,
            model=deployment.model,
            engine=deployment.engine.kind,
            policy=deployment.policy,
            generation=deployment.generation,
        )
        registered = set(self._watcher.workers)
        for pool in deployment.pools:
            states = [
                record.state
                for record in self._watcher.workers.values()
                if (record.deployment, record.role) == (deployment.name, pool.role)
            ]
            # Hosted and not registered yet counts as starting too.
            unregistered = sum(
                1
                for name in self._loop.hosting
                if name not in registered and self._loop.pool_of(name) == (deployment.name, pool.role)
            )
            out.pools.append(
                control_pb2.Pool(
                    role=pool.role,
                    wanted=pool.replicas,
                    ready=states.count(types.WorkerState.READY),
                    starting=states.count(types.WorkerState.STARTING) + unregistered,
                    draining=states.count(types.WorkerState.DRAINING),
                )
            )
        return out

    async def WatchEvents(
        self, request: Any, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[control_pb2.Event]:
        """Waits for events in Redis, a second at a time."""
        after = request.after or "$"
        if request.after and not _EVENT_ID.match(request.after):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"after: {request.after!r} is no event id")
        if after == "$":
            after = await self._last_event()
        while True:
            try:
                with redis_link.translated("read events"):
                    answer: Any = await self._redis.xread({self._keys.events: after}, count=100, block=1000)
            except errors.RetryableError:
                await asyncio.sleep(0.5)
                continue
            for event_id, fields in registry.entries(answer):
                after = event_id.decode()
                text = {key.decode(): value.decode() for key, value in fields.items()}
                yield control_pb2.Event(
                    id=after,
                    kind=text.get("kind", ""),
                    subject=text.get("subject", ""),
                    reason=text.get("reason", ""),
                    at_s=float(text.get("at_s", 0)),
                )

    async def _last_event(self) -> str:
        try:
            with redis_link.translated("read events"):
                last: Any = await self._redis.xrevrange(self._keys.events, count=1)
        except errors.RetryableError:
            return "0-0"
        return str(last[0][0].decode()) if last else "0-0"

    async def Apply(self, request: Any, context: aio.ServicerContext[Any, Any]) -> control_pb2.ApplyResponse:
        """INVALID_ARGUMENT names the field and what is allowed."""
        await self._lead_or_abort(context)
        try:
            deployment = types.ModelDeployment.model_validate_json(request.deployment_json)
            profiles.by_name(deployment.policy)
            generation = await self._loop.apply(deployment)
        except profiles.UnknownProfileError as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"policy: {exc}")
        except pydantic.ValidationError as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, invalid.in_words(exc, "deployment"))
        except errors.PenstockError as exc:
            await _abort(context, exc)
        return control_pb2.ApplyResponse(generation=generation)

    async def Scale(self, request: Any, context: aio.ServicerContext[Any, Any]) -> control_pb2.ScaleResponse:
        """The wanted number before and now."""
        await self._lead_or_abort(context)
        role = request.role or types.ROLE_UNIFIED
        try:
            previous = await self._loop.scale(request.deployment, role, request.replicas)
        except errors.PenstockError as exc:
            await _abort(context, exc)
        return control_pb2.ScaleResponse(previous=previous, replicas=request.replicas)

    async def Drain(self, request: Any, context: aio.ServicerContext[Any, Any]) -> control_pb2.DrainResponse:
        """Returns once the drain is decided, not once it is done."""
        await self._lead_or_abort(context)
        timeout_s = request.timeout_s if request.HasField("timeout_s") else None
        try:
            if self._agent_tls is not None:
                state = await self._loop.drain_by_agent(request.worker, timeout_s, self._agent_tls)
            elif timeout_s is not None:
                raise errors.TerminalError(
                    "timeout_s: is for workers whose agents have a gRPC API (settings agent_tls)"
                )
            else:
                state = await self._loop.drain(request.worker, request.replace)
        except errors.PenstockError as exc:
            await _abort(context, exc)
        return control_pb2.DrainResponse(state=state)

    async def Explain(self, request: Any, context: aio.ServicerContext[Any, Any]) -> control_pb2.ExplainResponse:
        """Asks every gateway: only the one that took the request knows."""
        if not _REQUEST_ID.match(request.request_id):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "request_id: 1 to 256 printable characters")
        try:
            self._gateways = await self._registry.gateways()
        except errors.RetryableError:
            pass  # the gateways last seen will do
        silent = []
        for name, answer in await asyncio.gather(
            *(self._ask(item.record, request.request_id) for item in self._gateways)
        ):
            if isinstance(answer, bytes):
                return control_pb2.ExplainResponse(gateway=name, decision_json=answer.decode())
            if answer is not None:
                silent.append(name)
        if silent:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"these gateways did not answer: {', '.join(silent)}")
        await context.abort(
            grpc.StatusCode.NOT_FOUND,
            f"no gateway of {len(self._gateways)} remembers request {request.request_id!r}; they keep the last ones only",
        )
        raise AssertionError

    async def _ask(self, record: types.GatewayRecord, request_id: str) -> tuple[str, bytes | Exception | None]:
        quoted = "".join(c if c.isalnum() or c in "-_.~" else f"%{ord(c):02X}" for c in request_id)
        try:
            async with asyncio.timeout(_EXPLAIN_TIMEOUT_S):
                return record.id, await scrape.get(record.admin_host, record.admin_port, f"/debug/decisions/{quoted}")
        except FileNotFoundError:
            return record.id, None
        except (OSError, TimeoutError) as exc:
            return record.id, exc

    async def _lead_or_abort(self, context: aio.ServicerContext[Any, Any]) -> None:
        if not self._leader.leading:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this controller ({self._leader.id}) does not lead; {self._leader.holder or 'nobody'} does",
            )


def _gateway(item: types.RegisteredGateway, reachable: bool) -> control_pb2.Gateway:
    record = item.record
    host = f"[{record.host}]" if ":" in record.host else record.host
    return control_pb2.Gateway(
        id=record.id,
        address=f"{host}:{record.port}",
        admin_address=f"{record.admin_host}:{record.admin_port}",
        pid=record.pid,
        version=record.version,
        policy=record.policy,
        lease_left_s=item.lease_left_s if reachable else None,
        requests_total=record.requests_total,
        inflight=record.inflight,
        index_blocks=record.index_blocks,
        index_bytes=record.index_bytes,
        endpoints=record.endpoints,
        degraded=record.degraded,
        started_at_s=record.started_at_s,
    )


def _node(item: types.RegisteredNode, reachable: bool) -> control_pb2.Node:
    record = item.record
    # What was drawn before it fell silent, or before Redis did, is not what is drawn now.
    current = reachable and not item.silent_s
    return control_pb2.Node(
        id=record.id,
        version=record.version,
        lease_left_s=item.lease_left_s if reachable else None,
        silent_s=item.silent_s if reachable else None,
        gpus=record.gpus,
        gpu_w=record.gpu_w if current else None,
        cpu_w=record.cpu_w if current else None,
        degraded=record.degraded,
        started_at_s=record.started_at_s,
    )


async def _abort(context: aio.ServicerContext[Any, Any], exc: errors.PenstockError) -> NoReturn:
    code = grpc.StatusCode.UNAVAILABLE if exc.retryable else grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(exc, errors.FencedError):
        code = grpc.StatusCode.FAILED_PRECONDITION
    elif "is not there" in str(exc):
        code = grpc.StatusCode.NOT_FOUND
    await context.abort(code, str(exc))
    raise AssertionError

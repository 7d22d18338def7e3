"""The registry in Redis: records in a hash, lease ends in a sorted set, changes in a stream (`penstock.api.wire`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pydantic
import redis.asyncio as aioredis

from penstock.api import types, wire
from penstock.runtime import errors, logs
from penstock.runtime import redis as redis_link
from penstock.runtime.registry import port, scripts

R = TypeVar("R", bound=pydantic.BaseModel)

_REPLACE_ATTEMPTS = 8


class RedisRegistry:
    """See `port.Registry`. One script call each; `set_...` reads first and writes where nobody wrote between."""

    def __init__(self, client: aioredis.Redis, keys: wire.Keys, node_kept_s: float = port.NODE_KEPT_S) -> None:
        self._client, self._node_kept_s = client, node_kept_s
        self._keys = keys
        self._log = logs.get("registry")
        register = client.register_script
        self._next = register(scripts.NEXT_INCARNATION)
        self._register = register(scripts.REGISTER)
        self._renew = register(scripts.RENEW)
        self._replace = register(scripts.REPLACE)
        self._deregister = register(scripts.DEREGISTER)
        self._expire = register(scripts.EXPIRE)
        self._snapshot = register(scripts.SNAPSHOT)
        self._put_gateway = register(scripts.PUT_GATEWAY)
        self._drop_gateway = register(scripts.DROP_GATEWAY)
        self._gateways = register(scripts.GATEWAYS)
        self._put_node = register(scripts.PUT_NODE)

    async def next_incarnation(self) -> int:
        """See the port. O(1)."""
        return int(await self._run("next incarnation", self._next, [self._keys.worker_incarnation]))

    async def register(self, record: types.WorkerRecord, lease_s: float) -> None:
        """See the port. O(log n)."""
        keys = [self._keys.workers, self._keys.worker_leases, self._keys.registry_log]
        args = [
            record.id,
            record.incarnation,
            record.model_dump_json(),
            _ms(lease_s),
            wire.REGISTRY_LOG_MAXLEN,
        ]
        newer = await self._run("register", self._register, keys, args)
        if newer:
            raise errors.FencedError(
                f"worker {record.id}: incarnation {record.incarnation} is older than {_text(newer)}, "
                "which is registered"
            )

    async def renew(self, worker_id: str, incarnation: int, lease_s: float) -> types.WorkerState | None:
        """See the port. O(log n)."""
        keys = [self._keys.workers, self._keys.worker_leases]
        state = _text(await self._run("renew", self._renew, keys, [worker_id, incarnation, _ms(lease_s)]))
        return types.WorkerState(state) if state else None

    async def set_state(self, worker_id: str, incarnation: int | None, state: types.WorkerState) -> bool:
        """See the port. O(1), two round trips."""

        def change(record: types.WorkerRecord) -> types.WorkerRecord | None:
            drains = record.state is types.WorkerState.DRAINING and state is not record.state
            return None if drains else record.model_copy(update={"state": state})

        return await self._set(worker_id, incarnation, change)

    async def set_speed(self, worker_id: str, incarnation: int, speed: types.EngineSpeed) -> bool:
        """See the port. O(1), two round trips."""
        return await self._set(worker_id, incarnation, lambda record: record.model_copy(update={"speed": speed}))

    async def _set(
        self,
        worker_id: str,
        incarnation: int | None,
        change: Callable[[types.WorkerRecord], types.WorkerRecord | None],
    ) -> bool:
        """Writes what `change` makes of the record; False where it makes nothing, or there is none of the incarnation."""
        for _ in range(_REPLACE_ATTEMPTS):
            with redis_link.translated("read a worker"):
                present = await self._client.hget(self._keys.workers, worker_id)
            if present is None:
                return False
            record = types.WorkerRecord.model_validate_json(present)
            if incarnation is not None and record.incarnation != incarnation:
                return False
            new = change(record)
            if new is None or new == record:
                return new is not None
            args = [worker_id, present, new.model_dump_json(), wire.REGISTRY_LOG_MAXLEN]
            if await self._run("change a worker", self._replace, [self._keys.workers, self._keys.registry_log], args):
                return True
        raise errors.RetryableError(
            f"worker {worker_id}: its record changed {_REPLACE_ATTEMPTS} times while it was written"
        )

    async def deregister(self, worker_id: str, incarnation: int) -> bool:
        """See the port. O(log n)."""
        keys = [self._keys.workers, self._keys.worker_leases, self._keys.registry_log]
        args = [worker_id, incarnation, wire.REGISTRY_LOG_MAXLEN]
        return bool(await self._run("deregister", self._deregister, keys, args))

    async def expire(self) -> list[str]:
        """See the port. O(log n + expired)."""
        names = self._keys
        keys = [names.workers, names.worker_leases, names.registry_log, names.gateways, names.gateway_leases]
        args = [wire.REGISTRY_LOG_MAXLEN, _ms(port.SWEEP_GAP_S), _ms(port.SWEEP_GRACE_S)]
        return [_text(item) for item in await self._run("expire", self._expire, [*keys, names.registry_swept], args)]

    async def snapshot(self) -> list[types.RegisteredWorker]:
        """See the port. O(n)."""
        return (await self.snapshot_at()).workers

    async def snapshot_at(self) -> port.Snapshot:
        """See the port. O(n)."""
        keys = [self._keys.workers, self._keys.worker_leases, self._keys.registry_log]
        now_ms, cursor, records, leases = await self._run("snapshot", self._snapshot, keys)
        workers = []
        for record, left_s in self._with_leases(types.WorkerRecord, float(now_ms), records, leases):
            workers.append(types.RegisteredWorker(record=record, lease_left_s=max(0.0, left_s)))
        return port.Snapshot(workers, _text(cursor))

    async def changes(self, cursor: str, wait_s: float) -> tuple[list[port.Change], str]:
        """See the port. O(changes), blocking on one connection of its own."""
        with redis_link.translated("read the registry log"):
            answer: Any = await self._client.xread(
                {self._keys.registry_log: cursor}, count=500, block=max(1, _ms(wait_s))
            )
        changes = []
        for entry_id, fields in entries(answer):
            cursor = _text(entry_id)
            change = self._change({_text(key): value for key, value in fields.items()})
            if change is not None:
                changes.append(change)
        return changes, cursor

    async def put_gateway(self, record: types.GatewayRecord, lease_s: float) -> None:
        """See the port. O(log n)."""
        keys = [self._keys.gateways, self._keys.gateway_leases]
        await self._run("put gateway", self._put_gateway, keys, [record.id, record.model_dump_json(), _ms(lease_s)])

    async def drop_gateway(self, gateway_id: str) -> None:
        """See the port. O(log n)."""
        await self._run(
            "drop gateway", self._drop_gateway, [self._keys.gateways, self._keys.gateway_leases], [gateway_id]
        )

    async def gateways(self) -> list[types.RegisteredGateway]:
        """See the port. O(n)."""
        keys = [self._keys.gateways, self._keys.gateway_leases]
        now_ms, records, leases = await self._run("gateways", self._gateways, keys)
        return [
            types.RegisteredGateway(record=record, lease_left_s=left_s)
            for record, left_s in self._with_leases(types.GatewayRecord, float(now_ms), records, leases)
            if left_s > 0
        ]

    async def put_node(self, record: types.NodeRecord, lease_s: float) -> None:
        """See the port. O(log n)."""
        keys = [self._keys.nodes, self._keys.node_leases]
        args = [record.id, record.model_dump_json(), _ms(lease_s), _ms(self._node_kept_s)]
        await self._run("put node", self._put_node, keys, args)

    async def drop_node(self, node_id: str) -> None:
        """See the port. O(log n)."""
        await self._run("drop node", self._drop_gateway, [self._keys.nodes, self._keys.node_leases], [node_id])

    async def nodes(self) -> list[types.RegisteredNode]:
        """See the port. O(n)."""
        now_ms, records, leases = await self._run("nodes", self._gateways, [self._keys.nodes, self._keys.node_leases])
        return [
            types.RegisteredNode(record=record, lease_left_s=max(0.0, left_s), silent_s=max(0.0, -left_s))
            for record, left_s in self._with_leases(types.NodeRecord, float(now_ms), records, leases)
            if left_s > -self._node_kept_s
        ]

    async def _run(self, what: str, script: Any, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:
        with redis_link.translated(what):
            return await script(keys=list(keys), args=list(args))

    def _with_leases(
        self, model: type[R], now_ms: float, records: Sequence[bytes], leases: Sequence[bytes]
    ) -> list[tuple[R, float]]:
        ends = {_text(leases[n]): float(leases[n + 1]) for n in range(0, len(leases), 2)}
        out = []
        for n in range(0, len(records), 2):
            name = _text(records[n])
            try:
                record = model.model_validate_json(records[n + 1])
            except pydantic.ValidationError as exc:
                self._log.warning("registry_record_unreadable", id=name, errors=exc.error_count())
                continue
            out.append((record, (ends.get(name, 0.0) - now_ms) / 1000))
        return sorted(out, key=lambda pair: pair[0].id)  # type: ignore[attr-defined]

    def _change(self, fields: dict[str, bytes]) -> port.Change | None:
        op, worker_id = _text(fields.get("op", b"")), _text(fields.get("id", b""))
        if op in ("del", "expire"):
            return port.Change("del" if op == "del" else "expire", worker_id)
        if op != "put" or "record" not in fields:
            return None
        try:
            return port.Change("put", worker_id, types.WorkerRecord.model_validate_json(fields["record"]))
        except pydantic.ValidationError as exc:
            self._log.warning("registry_record_unreadable", id=worker_id, errors=exc.error_count())
            return None


def _ms(duration_s: float) -> int:
    return math.ceil(duration_s * 1000)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def entries(answer: Any) -> list[tuple[Any, dict[Any, Any]]]:
    """Entries of the one stream that an XREAD was for, as RESP2 (a list) and RESP3 (a map) give them."""
    if not answer:
        return []
    if isinstance(answer, dict):
        chunks = next(iter(answer.values()))
        return [pair for chunk in chunks for pair in (chunk if isinstance(chunk, list) else [chunk])]
    return list(answer[0][1])

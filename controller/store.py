"""What the controller keeps in Redis: deployments, its loop's memory, the events for people."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pydantic
import redis.asyncio as aioredis

from controller import leader
from controller.policy import fleet
from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import redis as redis_link


@dataclasses.dataclass(frozen=True)
class Memory:
    """State of the loop as it is written."""

    state: fleet.State = dataclasses.field(default_factory=fleet.State)
    drains: frozenset[str] = frozenset()


class Store:
    """Reads by anyone; writes pass only under the leader's epoch. All raise `RetryableError` without Redis."""

    def __init__(self, client: aioredis.Redis, keys: wire.Keys, lead: leader.Leader, clock: clocks.Clock) -> None:
        self._client, self._keys, self._leader, self._clock = client, keys, lead, clock

    async def deployments(self) -> dict[str, types.ModelDeployment]:
        """By name."""
        with redis_link.translated("read deployments"):
            rows = await self._client.hgetall(self._keys.deployments)
        parsed = (types.ModelDeployment.model_validate_json(value) for value in rows.values())
        return {item.name: item for item in sorted(parsed, key=lambda item: item.name)}

    async def put_deployment(self, deployment: types.ModelDeployment) -> None:
        """Raises `FencedError` where another leads."""
        await self._leader.put_field(self._keys.deployments, deployment.name, deployment.model_dump_json())

    async def memory(self) -> Memory | None:
        """What the last leader left; None where there is nothing, or nothing readable."""
        with redis_link.translated("read controller state"):
            value = await self._client.get(self._keys.controller_state)
        if value is None:
            return None
        try:
            raw = json.loads(value)
            pools = {key: fleet.PoolState(**item) for key, item in raw["pools"].items()}
            state = fleet.State(pools, raw["next_index"], raw["unregistered_since_s"])
            return Memory(state, frozenset(raw["drains"]))
        except (ValueError, TypeError, KeyError, pydantic.ValidationError):
            return None

    async def put_memory(self, memory: Memory) -> None:
        """Raises `FencedError` where another leads."""
        value = {
            "pools": {key: dataclasses.asdict(item) for key, item in memory.state.pools.items()},
            "next_index": dict(memory.state.next_index),
            "unregistered_since_s": dict(memory.state.unregistered_since_s),
            "drains": sorted(memory.drains),
        }
        await self._leader.put(self._keys.controller_state, json.dumps(value, sort_keys=True))

    async def emit(self, kind: str, subject: str, reason: str) -> None:
        """Adds an event for people."""
        fields: dict[Any, Any] = {
            "kind": kind,
            "subject": subject,
            "reason": reason,
            "at_s": f"{self._clock.now_s():.3f}",
        }
        with redis_link.translated("write an event"):
            await self._client.xadd(self._keys.events, fields, maxlen=wire.EVENTS_MAXLEN, approximate=True)

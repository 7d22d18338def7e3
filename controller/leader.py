"""One active controller: a lease in Redis, with an epoch that fences what a past leader may still write."""

from __future__ import annotations

import json
from typing import Any

import redis.asyncio as aioredis

from penstock.api import wire
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs
from penstock.runtime import redis as redis_link

# KEYS: leader, epoch. ARGV: holder, lease ms. Returns {holder, epoch, lease ms left}. The epoch follows the clock, so
# that it does not fall back when Redis comes back empty.
_ACQUIRE = """
local present = redis.call('GET', KEYS[1])
if present then
  local lease = cjson.decode(present)
  if lease.holder == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return {lease.holder, string.format('%.0f', lease.epoch), ARGV[2]}
  end
  return {lease.holder, string.format('%.0f', lease.epoch), tostring(redis.call('PTTL', KEYS[1]))}
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local epoch = string.format('%.0f', math.max(tonumber(redis.call('GET', KEYS[2]) or '0') + 1, now))
redis.call('SET', KEYS[2], epoch)
redis.call('SET', KEYS[1], '{"holder":' .. cjson.encode(ARGV[1]) .. ',"epoch":' .. epoch .. '}', 'PX', ARGV[2])
return {ARGV[1], epoch, ARGV[2]}
"""

# KEYS: leader. ARGV: holder.
_RELEASE = """
local present = redis.call('GET', KEYS[1])
if present and cjson.decode(present).holder == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

# KEYS: leader, hash or string to write. ARGV: epoch, field ('' for a string), value ('' deletes a field).
_WRITE = """
local present = redis.call('GET', KEYS[1])
if not present or cjson.decode(present).epoch ~= tonumber(ARGV[1]) then return 0 end
if ARGV[2] == '' then redis.call('SET', KEYS[2], ARGV[3])
elseif ARGV[3] == '' then redis.call('HDEL', KEYS[2], ARGV[2])
else redis.call('HSET', KEYS[2], ARGV[2], ARGV[3]) end
return 1
"""


class Leader:
    """This process' bid for the lease. It may act while `leading`, and its writes pass only under its epoch."""

    def __init__(
        self, client: aioredis.Redis, keys: wire.Keys, clock: clocks.Clock, holder: str, *, lease_s: float = 5.0
    ) -> None:
        """`holder` must differ between processes, also over restarts, so that one cannot inherit another's lease."""
        self._keys, self._clock, self._lease_s = keys, clock, lease_s
        self._acquire = client.register_script(_ACQUIRE)
        self._release = client.register_script(_RELEASE)
        self._write = client.register_script(_WRITE)
        self._log = logs.get("controller")
        self._until_s = 0.0
        self.id = holder
        self.holder: str | None = None
        self.epoch = 0

    @property
    def leading(self) -> bool:
        """By our own clock, counted from before the last renewal was sent: never longer than Redis thinks."""
        return self.holder == self.id and self._clock.monotonic_s() < self._until_s

    @property
    def lease_left_s(self) -> float:
        """Seconds until the lease ends, whoever holds it."""
        return max(0.0, self._until_s - self._clock.monotonic_s())

    async def tick(self) -> bool:
        """Takes or renews the lease where possible; whether we lead. Raises `RetryableError` without Redis."""
        asked_s = self._clock.monotonic_s()
        was = self.leading
        with redis_link.translated("leader lease"):
            answer: list[Any] = await self._acquire(
                keys=[self._keys.leader, self._keys.leader_epoch], args=[self.id, int(self._lease_s * 1000)]
            )
        holder, epoch, left_ms = (item.decode() if isinstance(item, bytes) else str(item) for item in answer)
        self.holder, self.epoch = holder, int(epoch)
        self._until_s = asked_s + max(0.0, float(left_ms) / 1000)
        if self.leading and not was:
            self._log.info("leading", id=self.id, epoch=self.epoch)
        elif was and not self.leading:
            self._log.warning("not_leading", id=self.id, holder=self.holder)
        return self.leading

    async def release(self) -> None:
        """Gives the lease up, so that a standby need not wait for its end."""
        self._until_s = 0.0
        with redis_link.translated("release leader lease"):
            await self._release(keys=[self._keys.leader], args=[self.id])

    async def put(self, key: str, value: str) -> None:
        """Writes a string under our epoch. Raises `FencedError` where another leads."""
        await self._fenced(key, "", value)

    async def put_field(self, key: str, field: str, value: str | None) -> None:
        """Writes (None: deletes) a field of a hash under our epoch. Raises `FencedError` where another leads."""
        await self._fenced(key, field, value or "")

    async def _fenced(self, key: str, field: str, value: str) -> None:
        with redis_link.translated("write as leader"):
            done = await self._write(keys=[self._keys.leader, key], args=[self.epoch, field, value])
        if not done:
            self._until_s = 0.0
            raise errors.FencedError(f"controller {self.id}: epoch {self.epoch} leads no more")


def parse(value: bytes | str | None) -> tuple[str, int] | None:
    """Holder and epoch of a lease as it stands in Redis."""
    if value is None:
        return None
    lease = json.loads(value)
    return str(lease["holder"]), int(lease["epoch"])

"""One process' link to Redis: a client with timeouts, a health that is known, errors that say whether to retry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import redis.asyncio as aioredis
from redis import exceptions

from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, redis_urls, tasks


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns the client's errors into `RetryableError` or `TerminalError`, naming `what` was tried."""
    try:
        yield
    except (
        exceptions.AuthenticationError,
        exceptions.AuthorizationError,
        exceptions.NoPermissionError,
    ) as exc:
        raise errors.TerminalError(f"redis: {what}: {exc}") from exc
    except (
        exceptions.ConnectionError,
        exceptions.TimeoutError,
        exceptions.BusyLoadingError,
        exceptions.ReadOnlyError,
        exceptions.TryAgainError,
        exceptions.ClusterDownError,
        exceptions.MasterDownError,
        OSError,
        TimeoutError,
    ) as exc:
        raise errors.RetryableError(f"redis: {what}: {exc or type(exc).__name__}") from exc
    except exceptions.MovedError as exc:
        hint = "it is a Redis Cluster, whose URL begins with redis+cluster:// or rediss+cluster://"
        raise errors.TerminalError(f"redis: {what}: {exc}: {hint}") from exc
    except exceptions.RedisError as exc:
        raise errors.TerminalError(f"redis: {what}: {exc}") from exc


class RedisLink:
    """A Redis client that pings in the background and knows whether Redis is there.

    `client` connects on demand and again after a failure, so that a call succeeds as soon as Redis is back; it does not
    retry by itself. URLs are those of `redis_urls`: one Redis, one that Sentinels name, a Redis Cluster, with TLS or not.
    """

    def __init__(
        self,
        url: str,
        clock: clocks.Clock,
        *,
        name: str = "penstock",
        timeout_s: float = 2.0,
        ping_interval_s: float = 0.5,
        required_within_s: float | None = 10.0,
        max_connections: int = 64,
    ) -> None:
        """`required_within_s`: `start` fails where Redis does not answer for so long; None starts without it.

        Raises `TerminalError` for a URL that is none.
        """
        self.url_masked = logs.mask_urls(url)
        self._clock = clock
        self._log = logs.get(name)
        self._ping_interval_s = ping_interval_s
        self._required_within_s = required_within_s
        self._task: asyncio.Task[None] | None = None
        self.up = False
        self.last_ok_monotonic_s: float | None = None
        # Rises each time that Redis is back after it was away: a reader may have missed something.
        self.connections = 0
        self.last_error = ""
        try:
            self.client: aioredis.Redis = redis_urls.client(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                socket_keepalive=True,
                client_name=f"penstock-{name}",
                retry=None,
                max_connections=max_connections,
            )
        except ValueError as exc:
            raise errors.TerminalError(f"redis url {self.url_masked!r}: {exc}; allowed: {redis_urls.ALLOWED}") from exc

    async def start(self) -> None:
        """Pings until Redis answers, then goes on in the background.

        Raises `RetryableError` where it does not answer within `required_within_s`, `TerminalError` where it refuses.
        """
        deadline_s = None
        if self._required_within_s is not None:
            deadline_s = self._clock.monotonic_s() + self._required_within_s
        while True:
            try:
                await self._ping()
                break
            except errors.RetryableError as exc:
                self._went_down(str(exc))
                if deadline_s is None:
                    break
                if self._clock.monotonic_s() >= deadline_s:
                    raise errors.RetryableError(
                        f"redis at {self.url_masked} did not answer for {self._required_within_s:g} s: {exc}"
                    ) from exc
                await self._clock.sleep(0.1)
        self._task = asyncio.create_task(self._watch(), name="redis-ping")

    async def stop(self) -> None:
        """Ends the pings and closes the connections."""
        if self._task is not None:
            await tasks.cancel([self._task])
            self._task = None
        with contextlib.suppress(exceptions.RedisError, OSError):
            await self.client.aclose()

    def age_s(self) -> float | None:
        """Seconds since Redis last answered; None where it never did."""
        if self.last_ok_monotonic_s is None:
            return None
        return self._clock.monotonic_s() - self.last_ok_monotonic_s

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(self._ping_interval_s)
            try:
                await self._ping()
            except errors.PenstockError as exc:
                self._went_down(str(exc))
                # Idle connections of the same age are as dead; without this each costs one failed call later.
                await self.client.connection_pool.disconnect(inuse_connections=False)

    async def _ping(self) -> None:
        with translated("ping"):
            await self.client.ping()
        self.last_ok_monotonic_s = self._clock.monotonic_s()
        if not self.up:
            self.up = True
            self.connections += 1
            self.last_error = ""
            self._log.info("redis_up", url=self.url_masked, connections=self.connections)

    def _went_down(self, reason: str) -> None:
        self.last_error = reason
        if self.up or self.last_ok_monotonic_s is None:
            self._log.warning("redis_down", url=self.url_masked, reason=reason)
        self.up = False

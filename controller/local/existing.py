"""A Redis that somebody else runs: what a fleet looks at before it uses it, and what it takes along when it ends."""

from __future__ import annotations

from controller import leader
from penstock.api import wire
from penstock.runtime import clock as clocks
from penstock.runtime import errors
from penstock.runtime import redis as redis_link

_ANSWER_S = 5.0
_LOOK_S = 0.1


class ExistingRedis:
    """One namespace of an existing Redis."""

    def __init__(self, url: str, namespace: str, clock: clocks.Clock) -> None:
        self._link = redis_link.RedisLink(url, clock, name="up", required_within_s=_ANSWER_S)
        self._keys = wire.Keys(namespace)
        self._namespace, self._clock = namespace, clock
        # Whether the namespace held nothing before us, and so is ours to remove.
        self.was_empty = False

    @property
    def url_masked(self) -> str:
        """For people."""
        return self._link.url_masked

    async def claim(self) -> None:
        """Raises `StartError` where Redis does not answer or refuses us, or where a controller leads in the namespace.

        The lease of a controller that was killed is waited for.
        """
        try:
            await self._link.start()
            with redis_link.translated("look at the namespace"):
                self.was_empty = not await self._link.client.exists(*self._names())
                await self._wait_for_lease()
        except errors.PenstockError as exc:
            await self._link.stop()
            raise errors.StartError(f"redis at {self.url_masked}: {exc}") from exc

    async def leave(self) -> None:
        """Removes the namespace where it was empty before us. Raises `RetryableError` where Redis is away."""
        try:
            if self.was_empty:
                with redis_link.translated("remove the namespace"):
                    await self._link.client.unlink(*self._names())
        finally:
            await self._link.stop()

    def _names(self) -> list[str]:
        """All keys of the namespace but snapshots, which expire by themselves."""
        return [name for name in vars(self._keys).values() if name != self._keys.prefix]

    async def _wait_for_lease(self) -> None:
        client, key = self._link.client, self._keys.leader
        deadline_s = self._clock.monotonic_s() + max(0, await client.pttl(key)) / 1000 + _LOOK_S
        while (lease := leader.parse(await client.get(key))) is not None:
            if self._clock.monotonic_s() > deadline_s:
                raise errors.StartError(
                    f"controller {lease[0]} leads in namespace {self._namespace!r}; choose another with --namespace"
                )
            await self._clock.sleep(_LOOK_S)

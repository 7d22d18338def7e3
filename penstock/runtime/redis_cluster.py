"""A client of a Redis Cluster that learns by being sent on.

All keys of a fleet are in one slot (`penstock.api.wire`), so of a cluster's map this client needs one entry for each fleet. It
asks any node that it knows, remembers where `MOVED` sends it, and forgets that when the node there does not answer: failovers
and moved slots are followed, and shards without a fleet's keys may be away. While a slot is on its way `ASK` is followed too;
a command whose keys are split between two nodes then fails with `TRYAGAIN`. What was sent is never repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import redis.asyncio as aioredis
from redis import crc, exceptions

Address = tuple[str, int]

# Longer chains of redirections come from nodes that do not agree yet.
_HOPS = 8
_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ClusterDownError, OSError)
_REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError)


class ClusterClient(aioredis.Redis):
    """Sends each command to the owner of its keys, which have to be in one slot."""

    def __init__(self, seeds: Sequence[Address], **options: Any) -> None:
        """`seeds`: nodes to begin with, by name or address. `options`: those of `redis.asyncio.Redis`."""
        # The base class' own pool never connects: commands go through those of the nodes.
        super().__init__(host=seeds[0][0], port=seeds[0][1], **options)
        self._options = options
        self._seeds = tuple(dict.fromkeys(seeds))
        # In the order in which they are asked.
        self._known = list(self._seeds)
        self._nodes: dict[Address, aioredis.Redis] = {}
        self._owners: dict[int, Address] = {}
        # A key of each slot that was used, to see whether its owner is there.
        self._keys: dict[int, bytes] = {}

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Runs a command where its keys are."""
        key = _key_of(args)
        slot = crc.key_slot(key)
        self._keys.setdefault(slot, key)
        address = self._owners.get(slot)
        if address is None:
            address = self._owners[slot] = await self._find("EXISTS", key)
        asking = False
        for _ in range(_HOPS):
            try:
                if asking:
                    return await self._ask(address, args, options)
                return await _run(self._node(address), *args, **options)
            except exceptions.AskError as exc:
                asking = not isinstance(exc, exceptions.MovedError)
                former, address = address, _told(exc, address)
                if not asking:
                    self._owners[slot] = address
                    if former not in self._owners.values():
                        # A node that gives its slots away is about to leave, and nobody would ask it again.
                        await self._put_last(former)
            except _AWAY:
                self._owners.pop(slot, None)
                await self._put_last(address)
                raise
        self._owners.pop(slot, None)
        raise exceptions.ConnectionError(f"slot {slot} is not found: sent on {_HOPS} times")

    async def ping(self, **_: Any) -> bool:
        """Whether the owners of all slots in use answer; before the first use, whether there is a cluster."""
        if not self._keys:
            # A Redis that is no cluster refuses this.
            await self._find("CLUSTER", "MYID")
        seen: set[Address | None] = {None}
        for slot, key in list(self._keys.items()):
            if self._owners.get(slot) in seen - {None}:
                continue
            await self.execute_command("EXISTS", key)
            seen.add(self._owners.get(slot))
        return True

    def register_script(self, script: Any) -> Any:
        """A script that goes whole to a node that does not know it, as the one after a failover."""
        return _Script(self, script)

    def pipeline(self, *_: Any, **__: Any) -> Any:
        """Not offered."""
        raise NotImplementedError("no pipelines on a Redis Cluster: use a script")

    def pubsub(self, **_: Any) -> Any:
        """Not offered."""
        raise NotImplementedError("no pub/sub on a Redis Cluster: use a stream")

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Closes the connections to all nodes."""
        nodes, self._nodes = list(self._nodes.values()), {}
        for node in nodes:
            await node.aclose()
        await super().aclose(close_connection_pool)

    def _node(self, address: Address) -> aioredis.Redis:
        if address not in self._known:
            self._known.insert(0, address)
        if address not in self._nodes:
            self._nodes[address] = aioredis.Redis(host=address[0], port=address[1], **self._options)
        return self._nodes[address]

    async def _ask(self, address: Address, args: Sequence[Any], options: dict[str, Any]) -> Any:
        """ASKING counts for the next command on the same connection."""
        async with self._node(address).client() as one:
            await _run(one, "ASKING")
            return await _run(one, *args, **options)

    async def _find(self, *command: Any) -> Address:
        """Asks the nodes that are known, those last that did not answer before, for who should run `command`.

        Raises what the last one raised where none answers.
        """
        last: Exception | None = None
        for address in list(self._known):
            try:
                await _run(self._node(address), *command)
            except exceptions.MovedError as exc:
                return _told(exc, address)
            except exceptions.AskError:
                # It gives the slot away, and is its owner until that is done.
                return address
            except _REFUSED:
                raise
            except _AWAY as exc:
                last = exc
                await self._put_last(address)
            else:
                return address
        assert last is not None
        raise last

    async def _put_last(self, address: Address) -> None:
        """A node that failed or owns nothing: a given one is asked last, another when somebody names it again."""
        if address in self._known:
            self._known.remove(address)
            if address in self._seeds:
                self._known.append(address)
        # A node comes back with another address; what still runs on its connections holds them.
        node = self._nodes.get(address) if address in self._seeds else self._nodes.pop(address, None)
        if node is not None:
            # Of a node that failed, what lies idle is as dead as what was tried.
            await node.connection_pool.disconnect(inuse_connections=False)


class _Script:
    """As the client library's, with EVAL instead of SCRIPT LOAD, which names no key."""

    def __init__(self, client: ClusterClient, text: str) -> None:
        self._client, self._text = client, text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[Any], args: Sequence[Any] = ()) -> Any:
        given = (len(keys), *keys, *args)
        try:
            return await self._client.execute_command("EVALSHA", self._sha, *given)
        except exceptions.NoScriptError:
            return await self._client.execute_command("EVAL", self._text, *given)


async def _run(client: aioredis.Redis, *args: Any, **options: Any) -> Any:
    return await client.execute_command(*args, **options)  # type: ignore[no-untyped-call]


def _told(exc: exceptions.AskError, asked: Address) -> Address:
    """Where a redirection leads. A node that does not know its own name leaves it out or says "?": it is the one asked."""
    return (asked[0] if exc.host in ("", "?") else exc.host, exc.port)


def _key_of(args: Sequence[Any]) -> bytes:
    """The first key of a command. Raises `DataError` for one without."""
    name = str(args[0]).upper()
    at = 1
    if name in ("EVAL", "EVALSHA"):
        at = 3
    elif name in ("XREAD", "XREADGROUP"):
        at = 1 + next((at for at, each in enumerate(args) if each in (b"STREAMS", "STREAMS")), len(args))
    if len(args) <= at:
        raise exceptions.DataError(f"{name} names no key, and so no node of a cluster")
    return args[at] if isinstance(args[at], bytes) else str(args[at]).encode()

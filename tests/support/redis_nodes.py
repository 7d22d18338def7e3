"""A Redis Cluster of real processes, on loopback or another address of this machine, formed without a tool: shards, replicas, failovers, slots that move."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import redis.asyncio as aioredis
from redis import crc

from penstock.api import wire
from penstock.runtime import embedded_redis, processes

PASSWORD = "of-the-cluster"
SLOTS = 16_384
_BUS = 10_000
_SHARDS = 3
_READY_S = 30.0


class Node:
    """One server."""

    def __init__(self, folder: pathlib.Path, announced: int | None = None, host: str = "127.0.0.1") -> None:
        """`announced`: the port that others are told, of a front before this node."""
        folder.mkdir(parents=True)
        self.host, self.port = host, _free_pair(host)
        self._conf = folder / "redis.conf"
        self._conf.write_text(
            f"bind {host}\nport {self.port}\ndir {folder}\nsave \"\"\nrepl-diskless-sync-delay 0\n"
            f"requirepass {PASSWORD}\nmasterauth {PASSWORD}\nrepl-diskless-sync yes\nrepl-ping-replica-period 1\n"
            "cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-node-timeout 800\n"
            "cluster-require-full-coverage no\ncluster-replica-validity-factor 0\n"
        )  # fmt: skip
        if announced is not None:
            told = f"cluster-announce-ip {host}\ncluster-announce-port {announced}\n"
            self._conf.write_text(f"{self._conf.read_text()}{told}cluster-announce-bus-port {self.port + _BUS}\n")
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = aioredis.Redis(
            host=host, port=self.port, password=PASSWORD, decode_responses=True, socket_timeout=2.0
        )

    def start(self) -> None:
        """Starts, or starts again."""
        argv = [str(embedded_redis.find_binary()), str(self._conf)]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(processes.die_with_parent(argv), stdout=log, stderr=log)

    def signal(self, number: int) -> None:
        """Sends a signal; SIGKILL is waited for."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    async def stop(self) -> None:
        """Ends it."""
        await self.client.aclose()
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGKILL)

    async def call(self, *args: object) -> str:
        """CLUSTER ..., as text."""
        return str(await self.client.execute_command("CLUSTER", *args))

    async def id(self) -> str:
        """Its name in the cluster."""
        return await self.call("MYID")

    async def serves(self) -> bool:
        """Whether it is there and sees a cluster that is well."""
        with contextlib.suppress(aioredis.RedisError, OSError):
            return "cluster_state:ok" in await self.call("INFO")
        return False


class Cluster:
    """Three shards of one primary each, with a replica where asked for."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        replicas: bool = False,
        announced: Sequence[int | None] = (),
        host: str = "127.0.0.1",
    ) -> None:
        self._folder, self._host = folder, host
        ports = announced or [None] * _SHARDS
        self.primaries = [Node(folder / f"p{number}", port, host) for number, port in enumerate(ports)]
        self.replicas = [Node(folder / f"r{number}", host=host) for number in range(_SHARDS if replicas else 0)]

    @property
    def nodes(self) -> list[Node]:
        """All servers."""
        return [*self.primaries, *self.replicas]

    @property
    def url(self) -> str:
        """Names every primary, and one node that was never there."""
        dead = processes.free_port(self._host)
        hosts = ",".join(f"{self._host}:{port}" for port in [dead, *(each.port for each in self.primaries)])
        return f"redis+cluster://:{PASSWORD}@{hosts}"

    async def start(self) -> None:
        """Returns when all slots are served and the replicas have their primaries' data."""
        for node in self.nodes:
            node.start()
        for number, node in enumerate(self.nodes):
            await until(lambda node=node: _answers(node))  # type: ignore[misc]
            await node.call("SET-CONFIG-EPOCH", number + 1)
        share = SLOTS // len(self.primaries)
        for number, node in enumerate(self.primaries):
            end = SLOTS if node is self.primaries[-1] else share * (number + 1)
            await node.call("ADDSLOTS", *range(share * number, end))
        for node in self.nodes[1:]:
            await node.call("MEET", self._host, self.nodes[0].port)
        await self.settled(self.nodes)
        for primary, replica in zip(self.primaries, self.replicas, strict=False):
            await replica.call("REPLICATE", await primary.id())
        for replica in self.replicas:
            await until(lambda replica=replica: _follows(replica))  # type: ignore[misc]

    async def settled(self, nodes: list[Node]) -> None:
        """Until all of `nodes` know each other and see every slot served."""
        for node in nodes:
            await until(lambda node=node: _knows(node, len(nodes)))  # type: ignore[misc]

    async def add(self) -> Node:
        """A primary without slots."""
        node = Node(self._folder / f"p{len(self.primaries)}", host=self._host)
        node.start()
        await until(lambda: _answers(node))
        await node.call("SET-CONFIG-EPOCH", 100)
        await node.call("MEET", self._host, self.primaries[0].port)
        self.primaries.append(node)
        await self.settled(self.nodes)
        return node

    def owner(self, namespace: str) -> Node:
        """The primary that was given the slot of a fleet's keys, before failovers and moves."""
        return self.primaries[min(slot_of(namespace) // (SLOTS // _SHARDS), _SHARDS - 1)]

    async def stop(self) -> None:
        """Ends all."""
        for node in self.nodes:
            await node.stop()


class Move:
    """A slot on its way from one primary to another, step by step as `redis-cli --cluster reshard` does it."""

    def __init__(self, slot: int, source: Node, target: Node, everyone: list[Node]) -> None:
        self._slot, self._source, self._target, self._everyone = slot, source, target, everyone

    async def begin(self) -> None:
        """From now on keys that are not at the source are asked for at the target."""
        await self._target.call("SETSLOT", self._slot, "IMPORTING", await self._source.id())
        await self._source.call("SETSLOT", self._slot, "MIGRATING", await self._target.id())

    async def keys(self) -> list[str]:
        """What is still at the source."""
        found: list[str] = await self._source.client.execute_command("CLUSTER", "GETKEYSINSLOT", self._slot, 1000)
        return found

    async def take(self, key: str) -> None:
        """Moves one key."""
        await self._source.client.execute_command(
            *("MIGRATE", self._target.host, self._target.port, "", 0, 5000, "AUTH", PASSWORD, "KEYS", key)
        )

    async def take_all(self) -> None:
        """Moves what is there."""
        while keys := await self.keys():
            for key in keys:
                await self.take(key)

    async def end(self) -> None:
        """The slot is the target's."""
        name = await self._target.id()
        for node in [self._target, self._source, *self._everyone]:
            await node.call("SETSLOT", self._slot, "NODE", name)


def slot_of(namespace: str) -> int:
    """The slot of a fleet's keys."""
    return crc.key_slot(wire.Keys(namespace).workers.encode())


@contextlib.asynccontextmanager
async def running(
    folder: pathlib.Path, *, replicas: bool = False, announced: Sequence[int] = (), host: str = "127.0.0.1"
) -> AsyncIterator[Cluster]:
    """A cluster of three shards; `announced`: ports of fronts before them."""
    made = Cluster(folder, replicas=replicas, announced=announced, host=host)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def until(condition: Callable[[], Awaitable[bool]], deadline_s: float = _READY_S) -> None:
    """Waits for a condition, or fails."""
    async with asyncio.timeout(deadline_s):
        while not await condition():
            await asyncio.sleep(0.02)


async def _answers(node: Node) -> bool:
    with contextlib.suppress(aioredis.RedisError, OSError):
        return bool(await node.client.ping())
    return False


async def _knows(node: Node, count: int) -> bool:
    info = await node.call("INFO")
    nodes = await node.client.execute_command("CLUSTER", "NODES")
    return "cluster_state:ok" in info and str(nodes).count("\n") == count and "handshake" not in str(nodes)


async def _follows(replica: Node) -> bool:
    with contextlib.suppress(aioredis.RedisError, OSError, KeyError):
        return bool((await replica.client.info("replication"))["master_link_status"] == "up")
    return False


def _free_pair(host: str) -> int:
    """A free port whose bus port is free too."""
    while True:
        port = processes.free_port(host)
        with socket.socket() as sock, contextlib.suppress(OSError):
            if port + _BUS < 65_536:
                sock.bind((host, port + _BUS))
                return port

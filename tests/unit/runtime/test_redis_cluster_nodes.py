"""The client of a Redis Cluster, as nodes come and go."""

from __future__ import annotations

import asyncio

from redis import exceptions
from redis.asyncio import retry
from redis.backoff import NoBackoff

from penstock.runtime import redis_cluster


class Node:
    """Answers each command with what it is told, as a node of a cluster would."""

    def __init__(self) -> None:
        self.answer = b":1\r\n"
        self.asked = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> redis_cluster.Address:
        """Its address."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return ("127.0.0.1", self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """It is gone, with its connections."""
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while head := await reader.readline():
            words = []
            for _ in range(int(head[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            known = words[0].upper() in (b"EXISTS", b"GET")
            self.asked += known
            writer.write(self.answer if known else b"+OK\r\n")
            await writer.drain()
        writer.close()


def moved(address: redis_cluster.Address) -> bytes:
    """The redirection to another owner of the slot of `k`."""
    return f"-MOVED 7629 {address[0]}:{address[1]}\r\n".encode()


async def test_what_a_node_that_has_gone_had_is_dropped() -> None:
    """One that fails, and one whose slots have moved away, which nobody asks again; those that were given stay."""
    seed, second, third = Node(), Node(), Node()
    given, one, other = await seed.start(), await second.start(), await third.start()
    client = redis_cluster.ClusterClient([given], socket_timeout=5.0, retry=retry.Retry(NoBackoff(), 0))
    try:
        seed.answer = moved(one)
        assert await client.execute_command("EXISTS", "k") == 1
        assert set(client._nodes) == {given, one}

        second.answer = moved(other)
        assert await client.execute_command("EXISTS", "k") == 1
        assert third.asked == 1 and set(client._nodes) == {given, other} and one not in client._known

        await asyncio.gather(*(client.execute_command("EXISTS", "k") for _ in range(8)))
        await third.stop()
        # All at once: each finds out by itself that the node has gone.
        failed = await asyncio.gather(*(client.execute_command("GET", "k") for _ in range(8)), return_exceptions=True)
        assert {type(each) for each in failed} == {exceptions.ConnectionError}
        assert set(client._nodes) == {given}
        seed.answer = b":1\r\n"
        assert await client.execute_command("EXISTS", "k") == 1
    finally:
        await client.aclose()
        for node in (seed, second, third):
            await node.stop()

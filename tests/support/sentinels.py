"""A Redis that Sentinels name, of real processes: a master, a replica, and a Sentinel that can make it the master."""

from __future__ import annotations

import asyncio
import pathlib
import subprocess

import redis.asyncio as aioredis

from penstock.runtime import embedded_redis, processes

PASSWORD = "of-both"


class Group:
    """A master, a replica and a Sentinel, all with one password."""

    def __init__(self, folder: pathlib.Path, host: str = "127.0.0.1") -> None:
        self._folder, self.host = folder, host
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {name: processes.free_port(host) for name in ("first", "second", "sentinel")}

    @property
    def url(self) -> str:
        """For a link; one of its Sentinels is never there."""
        dead = processes.free_port(self.host)
        return f"redis+sentinel://:{PASSWORD}@{self.host}:{dead},{self.host}:{self.ports['sentinel']}/fleet/0"

    def start(self) -> None:
        """Starts all three."""
        first = self.ports["first"]
        auth = f'requirepass {PASSWORD}\nmasterauth {PASSWORD}\nsave ""\n'
        self._run("first", auth)
        self._run("second", f"{auth}replicaof {self.host} {first}\n")
        watched = f"requirepass {PASSWORD}\nsentinel monitor fleet {self.host} {first} 1\nsentinel auth-pass fleet {PASSWORD}\n"
        watched += "sentinel down-after-milliseconds fleet 500\nsentinel failover-timeout fleet 3000\n"
        self._run("sentinel", watched, "--sentinel")

    def _run(self, name: str, config: str, *flags: str) -> None:
        folder = self._folder / name
        folder.mkdir()
        text = f"bind {self.host}\nport {self.ports[name]}\ndir {folder}\nrepl-diskless-sync-delay 0\n{config}"
        if flags:
            text = text.replace("repl-diskless-sync-delay 0\n", "")
        (folder / "redis.conf").write_text(text)
        argv = [str(embedded_redis.find_binary()), str(folder / "redis.conf"), *flags]
        log = open(folder / "log", "wb")  # noqa: SIM115  closed with the process
        self._running[name] = subprocess.Popen(processes.die_with_parent(argv), stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self._running[name].kill()
        self._running.pop(name).wait()

    def stop(self) -> None:
        """Ends what still runs."""
        for name in list(self._running):
            self.kill(name)

    async def until_replicated(self) -> None:
        """Until the replica has the master's data, so that a failover can choose it."""
        client = aioredis.Redis(host=self.host, port=self.ports["second"], password=PASSWORD)
        sentinel = aioredis.Redis(host=self.host, port=self.ports["sentinel"], password=PASSWORD, decode_responses=True)
        async with asyncio.timeout(20):
            while True:
                try:
                    up = (await client.info("replication"))["master_link_status"] == "up"
                    seen = await sentinel.execute_command("SENTINEL", "REPLICAS", "fleet")
                    if up and seen:
                        break
                except (aioredis.RedisError, OSError):
                    pass
                await asyncio.sleep(0.05)
        await client.aclose()
        await sentinel.aclose()

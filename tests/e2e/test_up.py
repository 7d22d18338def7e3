"""`penstock up` as a user runs it, on real Ray and Redis; and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from controller import ray_node
from penstock.runtime import processes
from tests.support import local_fleet

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[local_fleet.LocalFleet]:
    """Two workers behind two gateways, for the module."""
    # Not tmp_path: Ray's unix sockets need a short path.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pe2e-"))
    fleet = local_fleet.LocalFleet(folder, "--workers", "2", "--gateways", "2")
    fleet.start()
    try:
        await fleet.ready()
        yield fleet
    finally:
        fleet.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def healthy(fleet: local_fleet.LocalFleet, deadline_s: float = 60.0) -> None:
    """Waits until status says so."""
    await fleet.until(lambda: fleet.status().get("healthy"), deadline_s)


async def test_answers_and_is_healthy(fleet: local_fleet.LocalFleet) -> None:
    """A request is answered; status shows two gateways, two workers with leases, and exits with 0."""
    assert local_fleet.ask(fleet.port) == 200
    got = fleet.run("status", "--port", str(fleet.port))
    assert got.returncode == 0 and "healthy" in got.stdout, got.stdout + got.stderr
    body = fleet.status()
    assert len(body["gateways"]) == 2 and len(body["workers"]) == 2
    assert all(item["lease_left_s"] > 0 and item["simulated"] for item in body["workers"])


async def test_listens_on_loopback_only(fleet: local_fleet.LocalFleet) -> None:
    """No process of the fleet, Ray's and Redis' included, listens beyond 127.0.0.1."""
    wide = [
        f"{process.name()} {conn.laddr.ip}:{conn.laddr.port}"
        for process in fleet.descendants()
        for conn in process.net_connections(kind="inet")
        if conn.status == psutil.CONN_LISTEN and conn.laddr.ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")
    ]
    assert wide == []


async def test_no_secret_on_a_command_line_or_in_a_log(fleet: local_fleet.LocalFleet) -> None:
    """The Redis password and Ray's token are in files of their own and nowhere else."""
    [folder] = fleet.temp.glob("penstock-????????")
    password = (folder / "redis.url").read_text().split(":")[2].split("@")[0]
    token = (folder / "ray.token").read_text()
    lines = [" ".join(process.cmdline()) for process in fleet.descendants()]
    assert not [line for line in lines if password in line or token in line]
    allowed = {"redis.url", "redis.conf", "ray.token"}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in allowed:
            text = path.read_bytes()
            assert password.encode() not in text and token.encode() not in text, path
    assert all((folder / name).stat().st_mode & 0o077 == 0 for name in ("redis.url", "ray.token"))


async def test_second_up_says_who_has_the_port(fleet: local_fleet.LocalFleet) -> None:
    """A second fleet on the port exits with 2 and names a process of the first."""
    got = fleet.run("up", "--port", str(fleet.port))
    assert got.returncode == 2 and "is taken by pid" in got.stderr
    pid = int(got.stderr.split("pid ")[1].split()[0])
    assert pid in {process.pid for process in fleet.descendants()}


async def test_killed_worker_is_replaced(fleet: local_fleet.LocalFleet) -> None:
    """A worker killed with SIGKILL is out of the registry by its lease, no request fails, and Ray starts another."""
    before = fleet.workers()
    os.kill(before["tiny-0"], signal.SIGKILL)
    for _ in range(10):
        assert local_fleet.ask(fleet.port) == 200
    await fleet.until(lambda: fleet.workers().get("tiny-0") not in (None, before["tiny-0"]))
    assert fleet.workers()["tiny-1"] == before["tiny-1"]
    await healthy(fleet)


async def test_killed_controller_touches_no_worker(fleet: local_fleet.LocalFleet) -> None:
    """A controller killed with SIGKILL is started again and adopts the workers: same pids, requests answered all along."""
    before = fleet.workers()
    [controller] = [item for item in fleet.descendants() if item.cmdline()[-2:] == ["-m", "controller"]]
    controller.kill()
    assert local_fleet.ask(fleet.port) == 200
    await fleet.until(lambda: not controller.is_running() or controller.status() == psutil.STATUS_ZOMBIE)
    await healthy(fleet)
    assert fleet.workers() == before


async def test_killed_redis_comes_back_and_everyone_registers_again(fleet: local_fleet.LocalFleet) -> None:
    """Redis killed: requests go on; an empty Redis has every worker and gateway again, pids unchanged."""
    before = fleet.workers()
    [server] = [item for item in fleet.descendants() if item.name() == "redis-server"]
    server.kill()
    for _ in range(10):
        assert local_fleet.ask(fleet.port) == 200
    await fleet.until(lambda: fleet.status().get("healthy") and len(fleet.status()["gateways"]) == 2)
    assert fleet.workers() == before


async def test_killed_gateway_is_started_again(fleet: local_fleet.LocalFleet) -> None:
    """A gateway killed with SIGKILL is back; the other goes on."""
    pids = {item["id"]: item["pid"] for item in fleet.status()["gateways"]}
    os.kill(pids["gw-0"], signal.SIGKILL)

    def back() -> bool:
        now = {item["id"]: item["pid"] for item in fleet.status().get("gateways", [])}
        return now.get("gw-0") not in (None, pids["gw-0"]) and now.get("gw-1") == pids["gw-1"]

    await fleet.until(back)
    assert local_fleet.ask(fleet.port) == 200
    await healthy(fleet)


async def test_scale_and_drain_keep_open_streams(fleet: local_fleet.LocalFleet) -> None:
    """Scale-out adds a worker; draining the worker of an open stream lets the stream end whole."""
    before = fleet.workers()
    assert fleet.run("scale", "tiny", "3", "--port", str(fleet.port)).returncode == 0
    await fleet.until(lambda: len(fleet.workers()) == 3)
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 3000, "ignore_eos": True, "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    top = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    worker = top.split("x-penstock-endpoint: ")[1].split("\r\n")[0]
    assert fleet.run("drain", worker, "--port", str(fleet.port)).returncode == 0
    rest = await reader.read(-1)
    writer.close()
    assert b"[DONE]" in rest and rest.count(b'"text"') >= 3000
    await fleet.until(lambda: worker not in {item["id"] for item in fleet.status().get("workers", [])})
    await healthy(fleet)
    kept = fleet.workers()
    assert len(kept) == 2 and all(kept[name] == pid for name, pid in before.items() if name in kept)


async def test_standby_takes_over_from_a_killed_leader(fleet: local_fleet.LocalFleet) -> None:
    """A second controller process leads after SIGKILL of the first; workers stay; it scales, and gives the lead back."""
    before = fleet.workers()
    [folder] = fleet.temp.glob("penstock-????????")
    address_file = fleet.temp / "standby.address"
    env = {
        **fleet.env, **ray_node.environment(folder),
        "PENSTOCK_CONTROLLER_ID": "standby",
        "PENSTOCK_CONTROLLER_REDIS_URL": (folder / "redis.url").read_text(),
        "PENSTOCK_CONTROLLER_RAY_ADDRESS_FILE": str(folder / "ray.address"),
        "PENSTOCK_CONTROLLER_GRPC_ADDRESS_FILE": str(address_file),
        "PENSTOCK_CONTROLLER_WORKER_REDIS_URL_FILE": str(folder / "redis.url"),
    }  # fmt: skip
    argv = [sys.executable, "-m", "controller"]
    standby = processes.Child("standby", argv, env=env, log_path=fleet.temp / "standby.log", cwd=local_fleet.ROOT)
    standby.spawn()
    try:
        await fleet.until(address_file.exists)

        def leads() -> bool:
            # Its parent starts the killed one again, which then bids for the lease too.
            for item in fleet.descendants():
                if item.cmdline()[-2:] == ["-m", "controller"]:
                    item.kill()
            got = fleet.run("status", "--json", "--controller", address_file.read_text())
            return bool(got.stdout) and json.loads(got.stdout)["controller"]["leader"]

        await fleet.until(leads, 30)
        assert local_fleet.ask(fleet.port) == 200
        standbys = ("--controller", address_file.read_text())
        shown = json.loads(fleet.run("status", "--json", *standbys).stdout)
        assert {item["id"]: item["pid"] for item in shown["workers"]} == before
        assert fleet.run("scale", "tiny", "3", *standbys).returncode == 0
        await fleet.until(lambda: len(json.loads(fleet.run("status", "--json", *standbys).stdout)["workers"]) == 3)
    finally:
        await standby.stop()
    await healthy(fleet)
    assert fleet.run("scale", "tiny", "2", "--port", str(fleet.port)).returncode == 0
    await fleet.until(lambda: len(fleet.workers()) == 2)
    await healthy(fleet)


async def test_top_fits_a_narrow_terminal_and_is_plain_text_elsewhere(fleet: local_fleet.LocalFleet) -> None:
    """On 80 columns each worker is one line with its name, state and load; in a pipe there is neither frame nor escape."""
    names = sorted(fleet.workers())
    command = [*local_fleet.PENSTOCK, "top", "--count", "2", "--every", "0.3", "--port", str(fleet.port)]
    drawn = await asyncio.to_thread(_in_terminal, command, fleet.env, 80)
    assert "\x1b[?1049h" in drawn and drawn.count("\x1b[?1049l") == 1, "its own screen, and back"
    pages = re.sub(r"\x1b\[[0-9;]*H", "\n", drawn)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", pages).splitlines()
    assert max(map(len, lines)) <= 80
    for name in names:
        assert any(re.match(rf"│ {name} +│.* ready +│.* 0 │.* 0 │.* 0% +│", line) for line in lines), drawn
    assert any(re.match(r"│ gw-1 +│", line) for line in lines) and any("healthy" in line for line in lines)
    piped = await asyncio.to_thread(fleet.run, *command[3:])
    assert piped.returncode == 0 and piped.stdout.isascii() and "\x1b" not in piped.stdout
    assert piped.stdout.count("\nhealthy\n") == 2
    assert all(len(re.findall(rf"^{name} +tiny +unified +ready ", piped.stdout, re.MULTILINE)) == 2 for name in names)


def _in_terminal(command: list[str], env: dict[str, str], columns: int) -> str:
    """What a command writes to a terminal of so many columns."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    shell = {key: value for key, value in env.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        command, cwd=local_fleet.ROOT, env={**shell, "TERM": "xterm-256color"}, stdin=its, stdout=its, stderr=its
    ) as process:
        os.close(its)
        written = b""
        # A terminal without a process on its other side is an error to read.
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 65_536):
                written += piece
        assert process.wait(30) == 0, written.decode()
    os.close(ours)
    return written.decode()


async def test_interrupt_leaves_nothing(fleet: local_fleet.LocalFleet) -> None:
    """Ctrl-C ends every process, frees the port and removes every file. (Last: it ends the module's fleet.)"""
    everyone = fleet.descendants()
    assert len(everyone) > 8
    assert await asyncio.to_thread(fleet.stop, signal.SIGINT) == 0
    async with asyncio.timeout(15):
        while local_fleet.living(everyone):
            await asyncio.sleep(0.1)
    socket.create_server(("127.0.0.1", fleet.port)).close()
    assert [path.name for path in fleet.temp.iterdir() if path.name.startswith("penstock")] == []


async def test_killed_command_takes_its_children_along_and_the_next_cleans_up() -> None:
    """SIGKILL of `penstock up` ends every process of the fleet; the next one on the port starts and removes its files."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pe2e-"))
    fleet = local_fleet.LocalFleet(folder, "--workers", "1", "--gateways", "1")
    fleet.start()
    try:
        await fleet.ready()
        everyone, [left] = fleet.descendants(), folder.glob("penstock-????????")
        fleet.stop(signal.SIGKILL)
        assert left.exists()
        fleet.start()
        await fleet.ready()
        assert local_fleet.ask(fleet.port) == 200
        assert local_fleet.living(everyone) == [] and not left.exists()
        assert await asyncio.to_thread(fleet.stop, signal.SIGINT) == 0
        assert [path.name for path in folder.iterdir() if path.name.startswith("penstock")] == []
    finally:
        fleet.stop(signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


async def test_command_killed_while_it_starts_leaves_no_process() -> None:
    """SIGKILL in the middle of the start ends what was started, and what it left on disk goes with the next start."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pe2e-"))
    fleet = local_fleet.LocalFleet(folder, "--workers", "1", "--gateways", "1")
    fleet.start()
    try:
        await fleet.until(lambda: "redis      ready" in fleet.log.read_text(), 180)
        everyone, [left] = fleet.descendants(), folder.glob("penstock-????????")
        fleet.stop(signal.SIGKILL)
        async with asyncio.timeout(30):
            while local_fleet.living(everyone):
                await asyncio.sleep(0.1)
        nothing = local_fleet.LocalFleet(folder, "--workers", "0", "--gateways", "0")
        nothing.start()
        await nothing.until(lambda: not left.exists(), 30)
        assert await asyncio.to_thread(nothing.stop, signal.SIGINT) == 0
    finally:
        fleet.stop(signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)

"""TLS between the command line and a controller process."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from penstock.runtime import clock, embedded_redis, processes
from tests.support import certificates


@pytest.fixture
def ca(tmp_path: pathlib.Path) -> certificates.Authority:
    """The CA of the controller and of its clients."""
    return certificates.Authority(tmp_path)


@pytest_asyncio.fixture
async def address(tmp_path: pathlib.Path, ca: certificates.Authority) -> AsyncIterator[str]:
    """A controller that speaks TLS and asks clients for a certificate."""
    server = embedded_redis.EmbeddedRedis(tmp_path / "redis", clock.SystemClock())
    await server.start()
    files, address_file = ca.issue("controller"), tmp_path / "address"
    env = {
        **os.environ,
        "PENSTOCK_CONTROLLER_REDIS_URL": server.url,
        "PENSTOCK_CONTROLLER_HOST": "process",
        "PENSTOCK_CONTROLLER_LOG_DIR": str(tmp_path / "logs"),
        "PENSTOCK_CONTROLLER_GRPC_ADDRESS_FILE": str(address_file),
        "PENSTOCK_CONTROLLER_TLS_CERT": str(files.cert),
        "PENSTOCK_CONTROLLER_TLS_KEY": str(files.key),
        "PENSTOCK_CONTROLLER_TLS_CA": str(ca.file),
    }
    log = tmp_path / "controller.log"
    child = processes.Child("controller", [sys.executable, "-m", "controller"], env=env, log_path=log)
    child.spawn()
    try:
        async with asyncio.timeout(30):
            while not address_file.exists():
                assert child.running, child.log_tail()
                await asyncio.sleep(0.05)
        yield address_file.read_text()
    finally:
        await child.stop()
        await server.stop()


def status(address: str, *tls: object) -> subprocess.CompletedProcess[str]:
    """`penstock status` of that controller."""
    command = [sys.executable, "-m", "controller.cli.main", "status", "--json", "--controller", address]
    return subprocess.run([*command, *map(str, tls)], capture_output=True, text=True, timeout=60, check=False)


async def test_clients_of_its_ca_are_served_and_others_are_not(
    address: str, ca: certificates.Authority, tmp_path: pathlib.Path
) -> None:
    """With a certificate of the controller's CA a command is answered; without one, or with another CA's, it is not."""
    ours = ca.issue("operator")
    good = await asyncio.to_thread(status, address, "--tls-ca", ca.file, "--tls-cert", ours.cert, "--tls-key", ours.key)
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["controller"]["id"].startswith("controller-0")

    stranger = certificates.Authority(tmp_path, "other CA")
    theirs = stranger.issue("stranger")
    refused = (
        (),
        ("--tls-ca", ca.file),
        ("--tls-ca", ca.file, "--tls-cert", theirs.cert, "--tls-key", theirs.key),
        ("--tls-ca", stranger.file, "--tls-cert", ours.cert, "--tls-key", ours.key),
    )
    for tls in refused:
        got = await asyncio.to_thread(status, address, *tls)
        assert (got.returncode, got.stdout) == (3, ""), (tls, got)
        assert f"controller at {address}" in got.stderr


def test_half_of_a_certificate_is_a_wrong_use(tmp_path: pathlib.Path) -> None:
    """A certificate without its key, and a file that is not there, are named before anything is asked."""
    half = status("127.0.0.1:1", "--tls-cert", "a.pem")
    assert half.returncode == 2 and "--tls-cert and --tls-key belong together" in half.stderr
    missing = status("127.0.0.1:1", "--tls-ca", tmp_path / "none.pem")
    assert missing.returncode == 1 and "none.pem" in missing.stderr and "Traceback" not in missing.stderr

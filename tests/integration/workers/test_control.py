"""The agent's gRPC API on a real socket: who may drain a worker, and how it drains."""

from __future__ import annotations

import asyncio
import pathlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pydantic
import pytest
import pytest_asyncio
from grpc import aio

from controller import agents, main, settings
from controller.local import client as local
from penstock.api import types
from penstock.api.proto import agent_pb2, agent_pb2_grpc
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, errors, grpcs, processes
from tests.support import certificates
from tests.support.worker_pod import Pod


class Bench:
    """A worker whose agent serves the API, and the CA of both sides."""

    def __init__(self, pod: Pod, folder: pathlib.Path) -> None:
        self.pod, self.folder, self.port = pod, folder, processes.free_port()
        self.ca = certificates.Authority(folder)
        self.secret = folder / "secret"
        self.secret.mkdir()
        own = self.ca.issue(grpcs.AGENT_NAME)
        for name, file in (("tls.crt", own.cert), ("tls.key", own.key), ("ca.crt", self.ca.file)):
            (self.secret / name).write_bytes(file.read_bytes())
        files = self.ca.issue("a-person")
        self.tls = grpcs.Tls(files.cert, files.key, self.ca.file)

    @property
    def address(self) -> str:
        """Of the API."""
        return f"127.0.0.1:{self.port}"

    @property
    def agent(self) -> agents.Agent:
        """The client of somebody who may."""
        return agents.Agent(self.address, self.tls)

    async def start(self, **settings: Any) -> asyncio.subprocess.Process:
        """An engine and its agent, ready; the agent."""
        await self.pod.engine()
        started = await self.pod.agent(control_port=self.port, control_tls=self.secret, **settings)
        await self.pod.until(types.WorkerState.READY)
        return started

    async def serves(self) -> bool:
        """Whether the worker is registered as ready."""
        found = await self.pod.record()
        return found is not None and found.state is types.WorkerState.READY


@pytest_asyncio.fixture
async def bench(tmp_path: pathlib.Path) -> AsyncIterator[Bench]:
    """Nothing runs yet but Redis."""
    redis = embedded_redis.EmbeddedRedis(tmp_path / "redis", clocks.SystemClock())
    await redis.start()
    pod = Pod(tmp_path, redis)
    await pod.link.start()
    yield Bench(pod, tmp_path)
    await pod.stop()
    await redis.stop()


async def test_a_drain_waits_for_the_last_stream(bench: Bench) -> None:
    """Told over gRPC, also twice, it leaves routing at once and ends with 0 when its stream has; the status says so meanwhile."""
    agent = await bench.start(drain_s=60.0)
    before = await bench.agent.status("m-0")
    assert (before.state, before.HasField("drain_left_s")) == ("ready", False)
    async with bench.pod.stream() as lines:
        told = await bench.agent.drain("m-0")
        assert told.state in ("ready", "draining") and 0 < told.drain_left_s <= 60
        await bench.pod.until(types.WorkerState.DRAINING)
        again = await bench.agent.drain("m-0")
        assert (again.state, again.in_flight) == ("draining", 1)
        assert again.drain_left_s <= told.drain_left_s, "a second command gives no more time"
        last = ""
        async for line in lines:
            last = line or last
        assert last == "data: [DONE]"
    async with asyncio.timeout(15):
        assert await agent.wait() == 0
    assert await bench.pod.record() is None


async def test_the_deadline_of_the_command_holds(bench: Bench) -> None:
    """A later command with an earlier deadline ends a drain that would go on: the worker is gone, with its stream still open."""
    agent = await bench.start(drain_s=600.0)
    async with bench.pod.stream():
        await bench.agent.drain("m-0", 500.0)
        told = await bench.agent.drain("m-0", 0.2)
        assert told.drain_left_s <= 0.2
        async with asyncio.timeout(15):
            assert await agent.wait() == 0
        assert await bench.pod.record() is None


async def test_others_are_refused(bench: Bench) -> None:
    """Without a certificate, with another CA's, without TLS, or with an agent's own, the worker goes on."""
    await bench.start()
    stranger = certificates.Authority(bench.folder, "other CA").issue("stranger")
    for tls, code in (
        (grpcs.Tls(ca=bench.ca.file), grpc.StatusCode.UNAVAILABLE),
        (grpcs.Tls(stranger.cert, stranger.key, bench.ca.file), grpc.StatusCode.UNAVAILABLE),
        (None, grpc.StatusCode.UNAVAILABLE),
        (
            grpcs.Tls(bench.secret / "tls.crt", bench.secret / "tls.key", bench.ca.file),
            grpc.StatusCode.PERMISSION_DENIED,
        ),
    ):
        async with grpcs.channel(bench.address, tls=tls, server_name=grpcs.AGENT_NAME) as channel:
            stub = agent_pb2_grpc.AgentStub(channel)  # type: ignore[no-untyped-call]
            with pytest.raises(aio.AioRpcError) as refused:
                await stub.Drain(agent_pb2.DrainRequest(worker="m-0"))
        assert refused.value.code() is code, (tls, refused.value)
    assert (await bench.agent.status("m-0")).state == "ready" and await bench.serves()


async def test_what_makes_no_sense_is_refused(bench: Bench) -> None:
    """Another worker's name, times that are none and messages that are too large are refused with what is allowed."""
    await bench.start()
    for worker, timeout_s, said in (
        ("m-1", None, "this is the agent of m-0"),
        ("m-0", -1.0, "timeout_s: -1 is not from 0 to 86400"),
        ("m-0", float("nan"), "timeout_s: nan is not from 0"),
        ("m-0", 1e9, "is not from 0 to 86400"),
        ("x" * 100_000, None, "larger than max"),
    ):
        with pytest.raises(errors.PenstockError, match=said):
            await bench.agent.drain(worker, timeout_s)
    assert await bench.serves()


async def test_a_missing_certificate_keeps_no_worker_from_serving(bench: Bench) -> None:
    """Without its Secret the agent serves no API and registers none; the worker takes requests."""
    (bench.secret / "ca.crt").unlink()
    await bench.start()
    record = await bench.pod.record()
    assert record is not None and record.control_port is None
    with pytest.raises(errors.TerminalError, match=r"agents\.tls"):
        agents.of_worker(record, bench.tls)
    with pytest.raises(errors.RetryableError):
        await bench.agent.status("m-0")


async def test_penstock_drain_reaches_it_through_the_controller(bench: Bench) -> None:
    """With host `none` the controller asks the worker's agent; one that has drained is said to be so, a stranger's name is not there."""
    agent = await bench.start()
    folder = bench.folder / "client"
    folder.mkdir()
    for name, file in (("tls.crt", bench.tls.cert), ("tls.key", bench.tls.key), ("ca.crt", bench.ca.file)):
        assert file is not None
        (folder / name).write_bytes(file.read_bytes())
    config = settings.ControllerSettings(redis_url=bench.pod.redis.url, host="none", tick_s=0.05, agent_tls=folder)
    life, server = main.build(config)
    await life.start()
    try:
        async with bench.pod.stream() as lines:
            await until_told(server.address, "m-0")
            said = await penstock("drain", "m-0", "--timeout", "60", "--controller", server.address)
            assert said in ((0, "m-0: ready"), (0, "m-0: draining"))
            await bench.pod.until(types.WorkerState.DRAINING)
            assert [line async for line in lines if line][-1] == "data: [DONE]"
        async with asyncio.timeout(15):
            assert await agent.wait() == 0
        code, text = await penstock("drain", "m-1", "--controller", server.address)
        assert code == 1 and "'m-1' is not there" in text
    finally:
        await life.stop()


async def test_penstock_drain_asks_an_agent_itself(bench: Bench) -> None:
    """By `--agent` and a certificate, without a controller; without one the command says what it needs."""
    agent = await bench.start()
    code, text = await penstock("drain", "m-0", "--agent", bench.address)
    assert code == 2 and "--tls-cert" in text
    files = ("--tls-ca", bench.tls.ca, "--tls-cert", bench.tls.cert, "--tls-key", bench.tls.key)
    code, text = await penstock("drain", "m-0", "--agent", bench.address, *map(str, files))
    assert code == 0 and text.endswith("0 in flight")
    async with asyncio.timeout(15):
        assert await agent.wait() == 0
    code, text = await penstock("drain", "m-0", "--agent", bench.address, *map(str, files))
    assert code == 3 and bench.address in text


async def until_told(address: str, worker: str) -> None:
    """Waits until a controller leads and knows the worker."""
    async with asyncio.timeout(15):
        while True:
            fleet = await local.Controller(address).get_fleet()
            if fleet is not None and fleet.controller.leader and worker in [each.id for each in fleet.workers]:
                return
            await asyncio.sleep(0.05)


async def penstock(*args: str) -> tuple[int | None, str]:
    """Exit status of the command, and the end of what it says."""
    command = [sys.executable, "-m", "controller.cli.main", *args]
    pipe = asyncio.subprocess.PIPE
    ran = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    said, _ = await ran.communicate()
    return ran.returncode, said.decode().strip()


def test_a_controller_that_anybody_reaches_speaks_to_no_agent() -> None:
    """Its own API has to ask for certificates first: else it would open what the agents keep closed."""
    given = {"redis_url": "redis://127.0.0.1", "host": "none", "agent_tls": "/nowhere"}
    with pytest.raises(pydantic.ValidationError, match="agent_tls needs tls_ca"):
        settings.ControllerSettings.model_validate(given | {"grpc_host": "0.0.0.0"})
    settings.ControllerSettings.model_validate(given)

"""1,000 requests of Mooncake's conversation trace on 8 simulated workers: two gateways, a killed worker, a killed gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client import parser

from tests.support import local_fleet

pytestmark = [pytest.mark.traces, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

FLEET = (
    "--workers", "8", "--profile", "h200-llama3.1-8b-fp8", "--engine-set", "kv_blocks=64000", "--engine-set", "speed=6",
)  # fmt: skip
# Twelve times the trace's speed on engines of six times theirs: about half of what the fleet can do.
REPLAY = ("--format", "mooncake", "--limit", "1000", "--speed", "12", "--max-tokens-cap", "60")
# Of our own streams: who computed it once is by far the quickest to answer it again.
PROMPT = " ".join(f"word{number}" for number in range(10_000))


def _trace() -> pathlib.Path:
    folder = os.environ.get("PENSTOCK_TRACES")
    if not folder:
        pytest.skip("needs the whole trace: PENSTOCK_TRACES=folder with mooncake_conversation.jsonl")
    return pathlib.Path(folder) / "mooncake_conversation.jsonl"


@contextlib.asynccontextmanager
async def _fleet(gateways: int) -> AsyncIterator[local_fleet.LocalFleet]:
    # Not tmp_path: Ray's unix sockets need a short path.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pmc-"))
    fleet = local_fleet.LocalFleet(folder, *FLEET, "--gateways", str(gateways))
    fleet.start()
    try:
        await fleet.ready()
        yield fleet
    finally:
        await asyncio.to_thread(fleet.stop, signal.SIGINT)
        shutil.rmtree(folder, ignore_errors=True)


async def _replay(fleet: local_fleet.LocalFleet) -> dict[str, Any]:
    """Figures of a replay, whatever its exit status."""
    process = await asyncio.create_subprocess_exec(
        *local_fleet.PENSTOCK, "replay", str(_trace()), "--target", f"http://127.0.0.1:{fleet.port}", "--json", "-", *REPLAY,
        cwd=local_fleet.ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert output, errors.decode()
    figures: dict[str, Any] = json.loads(output)
    return figures


class Admin:
    """The admin ports of the gateways, by name; no process is started to ask them."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.gateways = {item["id"]: item for item in status["gateways"]}
        self._client = httpx.AsyncClient(timeout=10.0, trust_env=False)

    async def get(self, gateway: str, path: str) -> httpx.Response:
        """An answer of one gateway."""
        return await self._client.get(f"http://{self.gateways[gateway]['admin_address']}{path}")

    async def counter(self, gateway: str, name: str) -> float:
        """Sum of a counter over its labels."""
        text = (await self.get(gateway, "/metrics")).text
        return sum(
            sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"penstock_gateway_{name}_total"
        )

    async def total(self, name: str) -> float:
        """Sum of a counter over all gateways."""
        return sum([await self.counter(gateway, name) for gateway in self.gateways])

    async def reuse(self, gateway: str) -> float:
        """Share of the prompt tokens answered through one gateway that its engines had cached."""
        return await self.counter(gateway, "cached_tokens") / await self.counter(gateway, "prompt_tokens")

    async def queued_tokens(self, endpoint: str) -> int:
        """Prompt tokens of requests at an endpoint that have no first byte yet."""
        rows = [
            row
            for gateway in self.gateways
            for row in (await self.get(gateway, "/debug/endpoints")).json()["endpoints"]
        ]
        return sum(row["queued_tokens"] for row in rows if row["id"] == endpoint)


class OpenStream:
    """A long stream of our own, with its first piece read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> None:
        self._reader, self._writer = reader, writer
        fields = dict(line.split(": ", 1) for line in head.lower().split("\r\n")[1:] if line)
        self.endpoint, self.request_id = fields["x-penstock-endpoint"], fields["x-request-id"]

    @classmethod
    async def start(cls, port: int, max_tokens: int = 8_000) -> OpenStream:
        """Asks for some seconds of tokens and waits for the first."""
        body = json.dumps(
            {"model": "tiny", "prompt": PROMPT, "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
        top = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert top.startswith("HTTP/1.1 200"), top
        await reader.readuntil(b"data: ")
        return cls(reader, writer, top)

    async def rest(self) -> bytes:
        """All that still comes, whether the connection ends well or is reset."""
        received = bytearray()
        try:
            while piece := await self._reader.read(65_536):
                received += piece
        except ConnectionError:
            pass
        finally:
            self._writer.close()
        return bytes(received)


async def _under_load(fleet: local_fleet.LocalFleet) -> Admin:
    """Waits until a part of the replay was answered."""
    admin = Admin(await asyncio.to_thread(fleet.status))
    async with asyncio.timeout(120):
        while await admin.total("requests") < 300:
            await asyncio.sleep(0.1)
    return admin


async def test_killed_worker_loses_no_unanswered_request() -> None:
    """Of a worker killed under load, requests without a first byte are answered by others; the rest end in an error event."""
    _trace()
    async with _fleet(2) as fleet:
        before = fleet.workers()
        replay = asyncio.create_task(_replay(fleet))
        admin = await _under_load(fleet)
        stream = await OpenStream.start(fleet.port)
        victim = before[stream.endpoint]
        # Held still, it cannot answer the request whose prompt it has; so both kinds are there at the kill.
        os.kill(victim, signal.SIGSTOP)
        unanswered = asyncio.create_task(OpenStream.start(fleet.port, max_tokens=8))
        try:
            async with asyncio.timeout(2):
                while not await admin.queued_tokens(stream.endpoint):
                    await asyncio.sleep(0.01)
        finally:
            os.kill(victim, signal.SIGKILL)
        ours = await stream.rest()
        elsewhere = await unanswered
        answer = await elsewhere.rest()
        figures = await replay
        cut, retried = await admin.total("cut_streams"), await admin.total("retries")
        await fleet.until(lambda: len(fleet.workers()) == len(before) and victim not in fleet.workers().values(), 90)
    print(f"after a worker's death: errors {figures['errors_by_kind']}, cut {cut:g}, tried again {retried:g}")
    # It ends as HTTP says, with an event that says why.
    assert b'data: {"error"' in ours and b"the answer is incomplete" in ours, ours[-500:]
    assert ours.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), ours[-500:]
    assert elsewhere.endpoint != stream.endpoint and answer.count(b'"text"') >= 8 and b"[DONE]" in answer
    assert set(figures["errors_by_kind"]) <= {"error_event"}
    assert figures["completed"] + figures["errors"] == figures["requests"] == 1_000
    assert figures["errors"] + 1 == cut
    # The gateways tried again, not the client.
    assert retried >= 1 and figures["retries"] == 0


async def test_gateways_reuse_as_one_and_one_that_dies_breaks_only_its_connections() -> None:
    """Two gateways reuse as one does; a gateway's death breaks its own open streams alone and leaves reuse as it was."""
    _trace()
    reuse = {}
    for gateways in (1, 2):
        async with _fleet(gateways) as fleet:
            figures = await _replay(fleet)
        assert (figures["requests"], figures["completed"], figures["errors"]) == (1_000, 1_000, 0)
        reuse[gateways] = figures["reuse"]
    print(f"reuse with one gateway {reuse[1]:.4f}, with two {reuse[2]:.4f}")
    assert abs(reuse[1] - reuse[2]) <= 0.03
    # Without prefix routing over 8 workers it is below 0.1: the figure is routing's, not chance's.
    assert min(reuse.values()) > 0.13

    async with _fleet(2) as fleet:
        replay = asyncio.create_task(_replay(fleet))
        admin = await _under_load(fleet)
        streams: dict[str, OpenStream] = {}
        async with asyncio.timeout(20):
            while len(streams) < 2:
                stream = await OpenStream.start(fleet.port)
                for gateway in admin.gateways:
                    if (await admin.get(gateway, f"/debug/decisions/{stream.request_id}")).status_code == 200:
                        streams[gateway] = stream
        before = await admin.counter("gw-1", "requests")
        os.kill(admin.gateways["gw-0"]["pid"], signal.SIGKILL)
        broken, whole = await asyncio.gather(streams["gw-0"].rest(), streams["gw-1"].rest())
        figures = await replay
        later = await admin.counter("gw-1", "requests") - before
        survivor = {name: await admin.counter("gw-1", name) for name in ("cut_streams", "refusals", "ejections")}
        survivor_reuse = await admin.reuse("gw-1")
    print(
        f"after a gateway's death: errors {figures['errors_by_kind']}, tried again by the client {figures['retries']}, "
        f"reuse {figures['reuse']:.4f}, through the other gateway {survivor_reuse:.4f} ({later:g} requests after the death)"
    )
    assert b"[DONE]" not in broken and b"[DONE]" in whole
    assert survivor == {"cut_streams": 0, "refusals": 0, "ejections": 0}
    # What had its first byte is cut; everything else was answered.
    assert figures["completed"] + figures["errors"] == 1_000
    assert set(figures["errors_by_kind"]) <= {"cut"} and figures["errors"] < 100
    assert figures["reuse"] > reuse[2] - 0.03
    assert later > 100 and survivor_reuse > reuse[2] - 0.03

"""TLS on the client port of `penstock gateway`, as a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import ssl
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from penstock.runtime import processes
from tests.support import certificates, scripted_engine


@contextlib.asynccontextmanager
async def gateway(folder: pathlib.Path, *options: str) -> AsyncIterator[tuple[processes.Child, dict[str, str]]]:
    """The process and what it says when it is ready; empty where it ended before."""
    command = [sys.executable, "-m", "controller.cli.main", "gateway", "--port", "0", "--admin-port", "0", *options]
    child = processes.Child("gateway", command, log_path=folder / "gateway.log")
    child.spawn()
    said: dict[str, str] = {}
    try:
        async with asyncio.timeout(30):
            while child.running and not said:
                lines = [line for line in child.log_tail(20_000).splitlines() if '"gateway_ready"' in line]
                said = json.loads(lines[0]) if lines else {}
                await asyncio.sleep(0.02)
        yield child, said
    finally:
        await child.stop()


async def test_client_port_speaks_tls(tmp_path: pathlib.Path) -> None:
    """Streams, whole answers and models come over TLS; a client of another CA and one without TLS get no answer."""
    ca = certificates.Authority(tmp_path)
    files = ca.issue("localhost")
    engine = scripted_engine.ScriptedEngine(scripted_engine.stream(50))
    await engine.start()
    options = ("--endpoint", engine.url, "--tls-cert", str(files.cert), "--tls-key", str(files.key))
    try:
        async with gateway(tmp_path, *options) as (_, said):
            address = said["address"]
            trusting = ssl.create_default_context(cafile=str(ca.file))
            async with httpx.AsyncClient(verify=trusting) as http:
                client: Any = openai.AsyncOpenAI(
                    base_url=f"https://{address}/v1", api_key="none", http_client=http, max_retries=0
                )
                assert [model.id async for model in client.models.list()] == ["m"]
                messages = [{"role": "user", "content": "hi"}]
                words = [
                    chunk.choices[0].delta.content
                    async for chunk in await client.chat.completions.create(model="m", messages=messages, stream=True)
                ]
                assert words == [f"w{number} " for number in range(50)]
                engine.behaviour = scripted_engine.answer("x" * 300_000)
                whole = await client.chat.completions.create(model="m", messages=messages)
                assert whole.choices[0].message.content == "x" * 300_000
            stranger = ssl.create_default_context(cafile=str(certificates.Authority(tmp_path, "other CA").file))
            async with httpx.AsyncClient(verify=stranger) as http:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await http.get(f"https://{address}/v1/models")
            async with httpx.AsyncClient() as http:
                with pytest.raises(httpx.TransportError):
                    await http.get(f"http://{address}/v1/models")
    finally:
        await engine.stop()


async def test_wrong_certificate_files_stop_the_start(tmp_path: pathlib.Path) -> None:
    """A key that is missing, of another certificate, or not there is named in one line, without a traceback."""
    ca = certificates.Authority(tmp_path)
    ours, other = ca.issue("localhost"), ca.issue("other")
    for cert, key, named in (
        (ours.cert, None, "tls_key"),
        (ours.cert, other.key, "other.key"),
        (tmp_path / "none.pem", ours.key, "none.pem"),
    ):
        options = ["--endpoint", "http://127.0.0.1:9", "--tls-cert", str(cert)]
        async with gateway(tmp_path, *options, *(("--tls-key", str(key)) if key else ())) as (child, said):
            assert said == {} and child.exit_code == 2, (cert, key)
            text = child.log_tail(20_000)
            assert named in text and "Traceback" not in text, text
        (tmp_path / "gateway.log").unlink()

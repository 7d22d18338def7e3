"""Endpoints given by URL: no registry, no Redis. Each is asked for its models and its KV capacity until it answers."""

from __future__ import annotations

import asyncio
import re
import ssl
import urllib.parse

import orjson

from penstock.api.types import Capacity, Endpoint, WorkerRecord, WorkerState
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs
from router.dataplane import gateway, upstream
from router.server import prober

_ASK_INTERVAL_S = 1.0
_REFRESH_INTERVAL_S = 15.0
_MAX_ANSWER_BYTES = 8 << 20
_CACHE_INFO = re.compile(r"^vllm:cache_config_info\{([^}]*)\}", re.MULTILINE)


class Target:
    """A server's URL, taken apart."""

    def __init__(self, url: str) -> None:
        try:
            parts = urllib.parse.urlsplit(url if "//" in url else f"http://{url}")
        except ValueError as exc:
            raise errors.SettingsError(f"endpoint {url!r}: {exc}") from exc
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise errors.SettingsError(f"endpoint {url!r} is not a URL such as http://127.0.0.1:8000")
        if parts.path.rstrip("/") not in ("", "/v1"):
            raise errors.SettingsError(f"endpoint {url!r}: the path may be empty or /v1, not {parts.path!r}")
        try:
            port = parts.port
        except ValueError as exc:
            raise errors.SettingsError(f"endpoint {url!r}: {exc}") from exc
        self.host = parts.hostname
        self.tls = parts.scheme == "https"
        self.port = port or (443 if self.tls else 80)
        self.id = re.sub(r"[^a-z0-9.-]", "-", f"{self.host}-{self.port}".lower()).strip("-.")


class StaticSource:
    """Keeps the fleet in step with a fixed list of servers."""

    def __init__(self, owner: gateway.Gateway, targets: list[Target], model: str | None, clock: clocks.Clock) -> None:
        self._gateway = owner
        self._targets = targets
        self._model = model
        self._clock = clock
        self._log = logs.get("gateway")
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Adds every server; those that do not answer yet are taken in when they do."""
        first = [asyncio.Event() for _ in self._targets]
        self._tasks = [
            asyncio.create_task(self._follow(position, target, asked))
            for position, (target, asked) in enumerate(zip(self._targets, first, strict=True))
        ]
        await asyncio.gather(*(asked.wait() for asked in first))

    async def stop(self) -> None:
        """Stops asking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, position: int, target: Target, asked: asyncio.Event) -> None:
        known: WorkerRecord | None = None
        while True:
            connections = connections_of(asyncio.get_running_loop(), target.host, target.port, target.tls)
            models = await _models(connections) if self._model is None else [self._model]
            if models:
                capacity = await _capacity(connections)
                record = WorkerRecord(
                    id=target.id,
                    incarnation=1,
                    deployment="static",
                    model=models[0],
                    adapters=tuple(models[1:]),
                    endpoint=Endpoint(host=target.host, port=target.port),
                    state=WorkerState.READY,
                    engine="openai",
                    capacity=capacity,
                    started_at_s=known.started_at_s if known else self._clock.now_s(),
                )
                if record != known:
                    self._gateway.fleet.upsert(record)
                    if known is None:
                        self._log.info("endpoint_added", endpoint=target.id, models=len(models))
                    known = record
            elif known is None and not asked.is_set():
                self._log.warning("endpoint_unreachable", endpoint=target.id)
            asked.set()
            await self._clock.sleep(_REFRESH_INTERVAL_S if known else _ASK_INTERVAL_S)


def connections_of(
    loop: asyncio.AbstractEventLoop, host: str, port: int, tls: bool, connect_timeout_s: float = 2.0
) -> upstream.Connections:
    """Connections to one server."""
    context = ssl.create_default_context() if tls else None
    return upstream.Connections(loop, host, port, tls=context, connect_timeout_s=connect_timeout_s)


async def _get(connections: upstream.Connections, path: bytes) -> bytes | None:
    """Body of a 200 answer to a GET, or None. For questions asked now and then, not for the hot path."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(prober.PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(connections.host, connections.port, ssl=connections.tls)
            # HTTP/1.0: the answer ends with the connection, and comes without chunks.
            writer.write(b"GET " + path + b" HTTP/1.0\r\n" + connections.host_header + b"connection: close\r\n\r\n")
            raw = await reader.read(_MAX_ANSWER_BYTES)
            while not reader.at_eof() and len(raw) < _MAX_ANSWER_BYTES:
                raw += await reader.read(_MAX_ANSWER_BYTES)
    except (OSError, TimeoutError):
        return None
    finally:
        if writer is not None:
            writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    return body if head[9:12] == b"200" else None


async def _models(connections: upstream.Connections) -> list[str]:
    body = await _get(connections, b"/v1/models")
    try:
        data = orjson.loads(body or b"")["data"]
        return [item["id"] for item in data if isinstance(item["id"], str) and item["id"]]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return []


async def _capacity(connections: upstream.Connections) -> Capacity:
    """KV capacity as vLLM's metrics give it; unknown where they do not."""
    body = await _get(connections, b"/metrics")
    found = _CACHE_INFO.search((body or b"").decode("utf-8", "replace"))
    if found is None:
        return Capacity()
    labels = dict(re.findall(r'(\w+)="([^"]*)"', found[1]))
    blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    if not (blocks.isdigit() and size.isdigit() and int(blocks) and int(size)):
        return Capacity()
    return Capacity(kv_blocks=int(blocks), block_size_tokens=int(size))

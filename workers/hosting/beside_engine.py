"""An engine that somebody else starts and stops, such as another container of the Pod: it is only asked."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request

from penstock import perf
from penstock.api import types
from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs
from workers.adapters import registry as adapters
from workers.adapters import stats
from workers.hosting import engine, spec

_ASK_TIMEOUT_S = 2.0
_POLL_S = 0.5
# The first request compiles, captures graphs and fills caches: it may take minutes.
_WARM_UP_TIMEOUT_S = 600.0
_WARM_UP_TOKENS = 4
# An engine under load may miss a probe or two; one that has ended refuses the connection, or says so, each time.
_MISSES = 5


class BesideEngine:
    """See `engine.Engine`. `start` waits for as long as the engine takes; `stop` leaves it alone."""

    def __init__(self, worker: spec.WorkerSpec, clock: clocks.Clock) -> None:
        if worker.engine_url is None:
            raise errors.SettingsError("engine_url: required where the engine is started by another")
        self._worker, self._clock = worker, clock
        self._url = worker.engine_url.rstrip("/")
        try:
            self._parse = adapters.parser_for(worker.engine.kind)
        except stats.UnknownEngine as exc:
            raise errors.SettingsError(f"engine: {exc}") from exc
        self._misses = self._refusals = 0
        self._log = logs.get("worker")

    async def start(self) -> engine.EngineInfo:
        """Returns when the engine is healthy and has answered a first request: that may take many minutes."""
        began_s = self._clock.monotonic_s()
        while not await self._healthy():
            await self._clock.sleep(_POLL_S)
        self._log.info("engine_found", url=self._url, waited_s=round(self._clock.monotonic_s() - began_s, 1))
        while not await self._warm_up():
            await self._clock.sleep(_POLL_S)
        reading = await self._read()
        address = urllib.parse.urlsplit(self._url)
        return engine.EngineInfo(
            # Gateways reach the engine by the Pod's address, not by the one that the agent uses.
            host=self._worker.host,
            port=address.port or 80,
            engine=self._worker.engine.kind,
            version=await self._version(),
            simulated=self._worker.engine.kind == "sim",
            capacity=types.Capacity(
                kv_blocks=reading.kv_blocks if reading else None,
                block_size_tokens=reading.block_size if reading else None,
                max_model_len_tokens=await self._longest(),
            ),
            speed=self._speed(),
            kv_events=self._worker.kv_events,
            kv_replay=self._worker.kv_replay,
        )

    async def alive(self) -> bool:
        """False where it did not answer several times in a row."""
        await self._probe()
        return self._misses < _MISSES

    async def ended(self) -> bool:
        """Whether it refused, or answered with an error, several times in a row: an engine that stalls may have streams."""
        await self._probe()
        return self._refusals >= _MISSES

    async def load(self) -> int | None:
        """Running and waiting, by the engine's own metrics."""
        reading = await self._read()
        if reading is None or reading.running is None or reading.waiting is None:
            return None
        return reading.running + reading.waiting

    async def stop(self, drain_s: float) -> None:
        """Whoever started it ends it."""

    async def _warm_up(self) -> bool:
        """A short request before traffic; whether the engine has dealt with it. One that refuses completions is warm enough."""
        began_s = self._clock.monotonic_s()
        fields = {"model": self._worker.model, "prompt": "warm up", "max_tokens": _WARM_UP_TOKENS}
        try:
            status = await asyncio.to_thread(_post, f"{self._url}/v1/completions", fields)
        except OSError as exc:
            self._log.warning("warm_up_failed", reason=str(exc))
            return False
        if status >= 500:
            self._log.warning("warm_up_failed", reason=f"the engine answered {status}")
            return False
        self._log.info("engine_warm", status=status, took_s=round(self._clock.monotonic_s() - began_s, 2))
        return True

    async def _probe(self) -> None:
        """Asks once, and counts."""
        try:
            await asyncio.to_thread(_get, f"{self._url}/health")
        except OSError as exc:
            self._misses += 1
            silent = isinstance(exc, TimeoutError) or isinstance(getattr(exc, "reason", None), TimeoutError)
            self._refusals = 0 if silent else self._refusals + 1
        else:
            self._misses = self._refusals = 0

    async def _healthy(self) -> bool:
        return await self._get("/health") is not None

    async def _read(self) -> stats.EngineStats | None:
        text = await self._get("/metrics")
        if text is None:
            return None
        try:
            return self._parse(text.decode())
        except (ValueError, UnicodeDecodeError):
            return None

    async def _version(self) -> str:
        """As vLLM tells it; empty where the engine does not."""
        body = _object(await self._get("/version"))
        return str(body.get("version", ""))

    async def _longest(self) -> int | None:
        """Longest prompt and output together, from the list of models."""
        models = _object(await self._get("/v1/models")).get("data")
        if not isinstance(models, list):
            return None
        found = [each.get("max_model_len") for each in models if isinstance(each, dict)]
        return next((each for each in found if isinstance(each, int) and each > 0), None)

    def _speed(self) -> types.EngineSpeed | None:
        """By the profile, where one of this name is there; the controller learns the rest."""
        try:
            return perf.speed_of(perf.load_profile(self._worker.engine.profile))
        except (errors.PenstockError, OSError, ValueError, KeyError):
            return None

    async def _get(self, path: str) -> bytes | None:
        try:
            return await asyncio.to_thread(_get, f"{self._url}{path}")
        except OSError:
            return None


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_ASK_TIMEOUT_S) as answer:
        data: bytes = answer.read()
    return data


def _post(url: str, fields: dict[str, object]) -> int:
    """The status of the answer. Raises OSError where none comes."""
    asked = urllib.request.Request(url, json.dumps(fields).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=_WARM_UP_TIMEOUT_S) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code


def _object(text: bytes | None) -> dict[str, object]:
    """A JSON object; empty where it is none."""
    try:
        found = json.loads(text or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

"""The simulated worker as an object: start it in a running event loop, stop it with a drain."""

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import Iterator

import uvicorn

from penstock import perf
from penstock.runtime import clock
from workers.engine import engine, types
from workers.sim import app, driver, kv_publisher, metrics, prompts, settings


@dataclasses.dataclass(frozen=True, slots=True)
class SimStats:
    """What a simulated worker is doing now."""

    running: int
    waiting: int
    in_flight: int
    """Requests accepted and not answered, those in the (simulated) frontend included."""
    kv_usage: float
    cached_blocks: int
    kv_blocks: int
    block_size: int
    prompt_tokens: int
    generation_tokens: int
    prefix_queries_tokens: int
    prefix_hits_tokens: int
    preemptions: int


class SimServer:
    """A simulated worker. Installs no signal handlers, so that it can live inside another process's loop."""

    def __init__(self, config: settings.SimSettings, time_source: clock.Clock | None = None) -> None:
        self.settings = config
        self._clock = time_source or clock.SystemClock()
        profile = perf.load_profile(config.profile)
        self._engine = engine.Engine(_engine_config(config, profile), profile.step, slowdown=config.slowdown)
        self._planner = prompts.Planner(config, self._engine.config.block_size)
        self._metrics = metrics.Metrics(config.model)
        self._before_engine_ms = profile.before_engine_ms
        self._driver: driver.Driver | None = None
        self._publisher: kv_publisher.KvPublisher | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The HTTP port, once started."""
        return self._port

    @property
    def kv_events_port(self) -> int | None:
        """The ZMQ port of the KV events, once started; None without events."""
        return self._publisher.port if self._publisher else None

    @property
    def kv_replay_port(self) -> int | None:
        """The ZMQ port of KV event replay, once started; None without replay."""
        return self._publisher.replay_port if self._publisher else None

    @property
    def stats(self) -> SimStats:
        """What the worker is doing now."""
        model, counters = self._engine, self._engine.counters
        in_flight = self._driver.in_flight if self._driver else 0
        return SimStats(
            running=model.num_running,
            waiting=max(0, in_flight - model.num_running),
            in_flight=in_flight,
            kv_usage=model.kv_usage,
            cached_blocks=model.cached_blocks,
            kv_blocks=model.config.kv_blocks,
            block_size=model.config.block_size,
            prompt_tokens=counters.prompt_tokens,
            generation_tokens=counters.generation_tokens,
            prefix_queries_tokens=counters.prefix_queries_tokens,
            prefix_hits_tokens=counters.prefix_hits_tokens,
            preemptions=counters.preemptions,
        )

    async def start(self) -> int:
        """Bind, begin to serve, and return the HTTP port. Raises OSError if the port is taken."""
        listener = socket.create_server((self.settings.host, self.settings.port), backlog=2048)
        self._port = listener.getsockname()[1]
        try:
            self._publisher = self._make_publisher()
        except BaseException:
            listener.close()
            raise
        publish = self._publisher.publish if self._publisher else None
        self._driver = driver.Driver(
            self._engine,
            self._metrics,
            speed=self.settings.speed,
            before_engine_ms=self._before_engine_ms,
            publish=publish,
        )
        self._driver.start()
        application = app.App(self.settings, self._planner, self._driver, self._metrics, self._clock)
        self._server = _Server(
            uvicorn.Config(
                application,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=self.settings.keep_alive_s,
            )
        )
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([listener]), name="sim-http")
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
                raise RuntimeError("the HTTP server ended while starting")
            await asyncio.sleep(0)
        return self._port

    async def serve_forever(self) -> None:
        """Return when the server has stopped."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    async def stop(self, drain_s: float = 0.0) -> None:
        """Accept no more connections, let requests finish for `drain_s` seconds, end the rest with an error, close."""
        if self._server is None or self._driver is None or self._serving is None:
            return
        self._server.config.timeout_graceful_shutdown = None
        self._server.should_exit = True
        await asyncio.wait({self._serving}, timeout=max(drain_s, 0.001))
        await self._driver.stop()
        done, _ = await asyncio.wait({self._serving}, timeout=2.0)
        if not done:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
        if self._publisher is not None:
            await self._publisher.stop()
        self._server = None

    def _make_publisher(self) -> kv_publisher.KvPublisher | None:
        config = self.settings
        if config.kv_events_port is None:
            return None
        publisher = kv_publisher.KvPublisher(
            config.host,
            config.kv_events_port,
            config.kv_replay_port,
            topic=config.kv_events_topic,
            buffer_steps=config.kv_buffer_steps,
            block_size=self._engine.config.block_size,
            token_ids=self._block_token_ids,
            time_source=self._clock,
        )
        publisher.start()
        return publisher

    def _block_token_ids(self, request: types.Request, first_block: int, count: int) -> list[int]:
        return self._planner.tokenizer.ids(self._planner.block_data(request, first_block, count))


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: they belong to whoever owns the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _engine_config(config: settings.SimSettings, profile: perf.EngineProfile) -> types.EngineConfig:
    return types.EngineConfig(
        kv_blocks=config.kv_blocks or profile.kv_blocks,
        block_size=config.block_size or profile.block_size,
        max_num_batched_tokens=config.max_num_batched_tokens or profile.max_num_batched_tokens,
        max_num_seqs=config.max_num_seqs or profile.max_num_seqs,
        prefix_caching=config.prefix_caching,
        kv_events=config.kv_events_port is not None,
    )

"""Gateways of the simulation: the production gateway's routing and account, without its sockets.

`router.dataplane.gateway.Gateway` asks its loop for the time and its exchanges for a few fields; here both are given by
the simulation, so decisions, load, index and corrections are those of production.
"""

from __future__ import annotations

import typing
from collections.abc import Callable

from penstock.api import types as api
from router.dataplane import fleet, gateway, upstream
from router.index import prefix
from router.policy import profiles
from simulator import requests
from workers.engine import types as engine_types

TICK_S = fleet.TICK_S


class Clock:
    """The virtual time, s; stands in for an event loop where a gateway asks for the time."""

    __slots__ = ("now_s", "soon")

    def __init__(self) -> None:
        self.now_s = 0.0
        # What was asked to be called once the present event is over.
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, act: Callable[[], None]) -> None:
        """As an event loop's."""
        self.soon.append(act)

    def time(self) -> float:
        """As an event loop's."""
        return self.now_s

    def monotonic_s(self) -> float:
        """As `penstock.runtime.clock.Clock`'s."""
        return self.now_s


class _Text:
    """The text of a prompt, of which only the size is looked at: it is hashed already."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


class Feature:
    """As `router.dataplane.features.Features`."""

    __slots__ = ("is_tokens", "max_tokens", "model", "salt", "stream", "text", "user")

    def __init__(self, model: str, tokens: int, max_tokens: int | None) -> None:
        self.model = model
        # Four bytes a token, and the gateway adds one token to what it estimates.
        self.text = _Text((tokens - 1) * requests.BYTES_PER_TOKEN)
        self.is_tokens = True
        self.stream = True
        self.max_tokens = max_tokens
        self.salt = ""
        self.user = ""


class Call:
    """A request on its way: what a gateway keeps of it (as `exchange.Exchange`), and what became of it."""

    __slots__ = (
        "attempts", "backend", "decode_since_ms", "decoding", "end_s", "error", "features", "first_s", "gateway", "hashes",
        "job", "on_room", "paused_s", "pool", "predicted_cached", "prefill", "profile", "prompt_tokens", "queued_ms",
        "queued_tokens", "request", "request_id", "sent_s", "session", "tenant", "tried", "worker",
    )  # fmt: skip

    def __init__(self, request: requests.Request, feature: Feature, pool: fleet.ModelPool | None, now_s: float) -> None:
        self.request = request
        self.features = feature
        self.hashes: list[int] | None = request.hashes
        self.pool = pool
        self.session = request.session
        self.tenant = ""
        self.profile: profiles.Profile | None = None
        self.request_id = b""
        self.attempts = 0
        self.tried = 0
        self.backend: fleet.Backend | None = None
        self.predicted_cached = 0
        self.prompt_tokens = 0
        self.queued_tokens = 0
        self.queued_ms = 0.0
        self.decode_since_ms = 0.0
        self.prefill: list[typing.Any] | None = None
        # Of the simulation.
        self.on_room: Callable[[Call], None] = lambda call: None
        self.gateway: Gateway | None = None
        self.worker: typing.Any = None
        self.job: engine_types.Request | None = None
        self.decoding = False
        self.sent_s = now_s
        self.paused_s = 0.0
        self.first_s: float | None = None
        self.end_s: float | None = None
        self.error: str | None = None

    def go_on(self) -> None:
        """The gateway that holds it has room, or thinks so."""
        self.on_room(self)


class _Usage:
    """As `router.dataplane.usage.Usage`."""

    __slots__ = ("cached_tokens", "completion_tokens", "prompt_tokens")

    def __init__(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.cached_tokens = cached_tokens


class _NoConnections:
    """Stands in for `upstream.Connections`: a simulated gateway opens none."""

    idle: tuple[()] = ()

    def close_idle(self) -> None:
        """There is none."""


class Gateway:
    """One gateway: its own fleet, index and account, on the virtual clock."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        profile: profiles.Profile,
        cut: requests.Blocks,
        budget_bytes: int,
        profile_of_model: dict[str, profiles.Profile] | None = None,
        kv_share: float = 1.0,
    ) -> None:
        self.name = name
        self._clock = clock
        self._tokens_at: Callable[[int], int] | None = cut.tokens_at()
        index = prefix.PrefixIndex(budget_bytes, cut.size_of())
        self.fleet = fleet.Fleet(index, lambda record: typing.cast(upstream.Connections, _NoConnections()))
        self.core = gateway.Gateway(
            typing.cast(typing.Any, clock),
            self.fleet,
            profile,
            gateway.Limits(kv_share=kv_share),
            name,
            kept_decisions=1,
        )
        self.core.profile_of_model = profile_of_model or {}

    def upsert(self, record: api.WorkerRecord) -> None:
        """What the registry says of a worker."""
        self.fleet.upsert(record)
        if self._tokens_at is not None:
            for pool in self.fleet.pools.values():
                pool.observed.tokens_at = self._tokens_at

    def remove(self, worker_id: str) -> None:
        """The registry has forgotten a worker."""
        self.fleet.remove(worker_id)

    def route(self, call: Call) -> str | None:
        """Decides and books; the id of the worker, None where the call is held.

        Raises `gateway.NoEndpointError` and `gateway.UnknownModelError`.
        """
        core = self.core
        core.tick = int(self._clock.now_s / TICK_S)
        if call.pool is None:
            call.pool = self.fleet.pools.get(call.features.model)
        call.gateway = self
        chosen = core.route(typing.cast(typing.Any, call), call.tried)
        return None if chosen is None else chosen.id

    def first_byte(self, call: Call) -> None:
        """The first bytes of the answer are there."""
        if call.queued_tokens:
            self.core.prefilled(typing.cast(typing.Any, call))

    def complete(self, call: Call, cached_tokens: int) -> None:
        """The whole answer is there, with the usage that the engine reports."""
        backend = call.backend
        self.core.release(typing.cast(typing.Any, call))
        if backend is not None:
            usage = _Usage(call.request.input_tokens, call.request.output_tokens, cached_tokens)
            self.core.learn(typing.cast(typing.Any, call), backend, typing.cast(typing.Any, usage))

    def failed(self, call: Call) -> None:
        """The attempt has failed: the endpoint takes nothing more until it is found well, and the request goes elsewhere."""
        backend = call.backend
        self.core.release(typing.cast(typing.Any, call))
        if backend is not None:
            call.tried |= backend.bit
            self.core.suspect(backend)

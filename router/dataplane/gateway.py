"""The gateway's core: routes requests over the fleet and keeps account of what is in flight.

It owns no socket of its own: `front` gives it requests, `upstream` connects it to engines, and `server` ticks it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import itertools
import math
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any, final

from router.dataplane import account, fleet, holding, usage
from router.index import blocks, pins
from router.policy import admission, profiles, types

if TYPE_CHECKING:
    from router.dataplane import exchange

TICK_S = fleet.TICK_S
# What was placed is made older in steps of at least this many ticks.
_FADE_TICKS = 4
# With less of its KV cache asked for than this share, shared prefixes counted each time, it does not matter what is shared.
_UNPINNED_SHARE = 0.7


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the data plane. Times in seconds, sizes in bytes."""

    max_body_bytes: int = 32 << 20
    max_head_bytes: int = 65_536
    max_inflight: int = 8_192
    max_attempts: int = 4
    connect_timeout_s: float = 2.0
    first_byte_timeout_s: float = 600.0
    idle_timeout_s: float = 120.0
    total_timeout_s: float = 3_600.0
    body_timeout_s: float = 60.0
    keep_alive_s: float = 75.0
    upstream_idle_s: float = 30.0
    # Silence of an endpoint with requests in flight after which its health is asked.
    silence_s: float = 2.0
    # Share of an endpoint's KV cache that requests in flight may fill before others wait (0: none waits), and for how long.
    kv_share: float = 1.0
    hold_s: float = 60.0
    retry_after_s: int = 1


@final
class Routed:
    """A decision as it is kept for `/debug/decisions`."""

    __slots__ = ("at_s", "attempt", "decision", "model", "profile", "prompt_tokens", "request_id")

    def __init__(
        self,
        request_id: bytes,
        model: str,
        profile: str,
        prompt_tokens: int,
        attempt: int,
        at_s: float,
        decision: types.Decision,
    ) -> None:
        self.request_id = request_id
        self.model = model
        self.profile = profile
        self.prompt_tokens = prompt_tokens
        self.attempt = attempt
        self.at_s = at_s
        self.decision = decision


class NoEndpointError(Exception):
    """No endpoint can take the request now."""


class UnknownModelError(Exception):
    """No endpoint serves that model."""


class Gateway:
    """Routing, load and account of one gateway process. One event loop owns it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoints: fleet.Fleet,
        profile: profiles.Profile,
        limits: Limits,
        gateway_id: str,
        kept_decisions: int = 512,
    ) -> None:
        self.loop = loop
        self.fleet = endpoints
        self.profile = profile
        self.limits = limits
        self.id = gateway_id
        self.account = account.Account()
        self.decisions: deque[Routed] = deque(maxlen=kept_decisions)
        self.active: set[exchange.Exchange] = set()
        self.holding = holding.Holding()
        self._dispatching = False
        # Profiles chosen per deployment (by model name); others use `profile`.
        self.profile_of_model: dict[str, profiles.Profile] = {}
        # Models that somebody deployed: without an endpoint they are not there now, and still not unknown.
        self.deployed: frozenset[str] = frozenset()
        self.tick = 0
        self._faded_tick = 0
        self.draining = False
        # Placements since the last batch for the other gateways, or None where nobody listens.
        self.placements: list[tuple[fleet.Backend, list[int], float]] | None = None
        # Endpoints whose failure needs a probe; the prober empties it.
        self.suspects: dict[str, fleet.Backend] = {}
        # (predicted end in ms, order, exchange or None once it is over), a heap.
        self._prefills: list[list[Any]] = []
        self._ids = itertools.count(1)
        self._order = itertools.count()
        self._id_prefix = secrets.token_hex(6).encode() + b"-"

    def new_request_id(self) -> bytes:
        """An id that no other gateway gives."""
        return b"%b%x" % (self._id_prefix, next(self._ids))

    def now_ms(self) -> float:
        """The loop's monotonic clock, ms."""
        return self.loop.time() * 1_000.0

    def route(self, ex: exchange.Exchange, tried: int) -> fleet.Backend | None:
        """Decides where `ex` goes, other than the endpoints in the bit set `tried`, and books its load there.

        None where it has to wait: `ex.go_on` is called when it may be tried again.
        """
        model = ex.features.model
        pool = self.fleet.pools.get(model)
        if pool is None:
            if model in self.deployed:
                raise NoEndpointError(model)
            raise UnknownModelError(model)
        profile = self.profile_for(ex)
        request, observed = self.observe(ex, pool, tried, profile.uses_prefix)
        decision = profile.decide(request, observed, pool.state)
        pool.state = decision.state
        backend = decision.endpoint
        assert isinstance(backend, fleet.Backend)
        prompt_tokens, matched = request.prompt_tokens, decision.matched_tokens
        prefill_ms = backend.prefill_ms(max(1, prompt_tokens - matched), matched)
        if profile.holds and self.holds(ex, observed, backend, prompt_tokens, backend.base_ms + prefill_ms):
            return None
        now_ms = observed.now_ms
        self.decisions.append(
            Routed(ex.request_id, model, profile.name, prompt_tokens, ex.attempts, now_ms / 1_000.0, decision)
        )
        self.book(ex, backend, prompt_tokens, matched, prefill_ms, now_ms)
        return backend

    def profile_for(self, ex: exchange.Exchange) -> profiles.Profile:
        """What decides about a request: its own wish, its model's, this gateway's."""
        return ex.profile or self.profile_of_model.get(ex.features.model) or self.profile

    def observe(
        self, ex: exchange.Exchange, pool: fleet.ModelPool, tried: int, uses_prefix: bool
    ) -> tuple[types.Request, types.Observed]:
        """What a policy decides on: `ex` as it sees it, and the endpoints of a pool other than those tried.

        Raises NoEndpointError where none is left.
        """
        feature = ex.features
        now_ms = self.now_ms()
        if self._prefills:
            self._settle(now_ms)
        if self.tick - self._faded_tick >= _FADE_TICKS:
            self.fade()
        if self.tick - pool.followers_tick >= _FADE_TICKS:
            pool.followers_tick = self.tick
            pool.observed.followers_per_ms = types.followers_per_ms(pool.observed.endpoints)
        observed = pool.observed
        if tried & pool.bits:
            observed = self._without(pool, tried)
        if not observed.bits:
            raise NoEndpointError(feature.model)
        if ex.hashes is None:
            seed = pool.seed
            if ex.tenant or feature.salt:
                seed = blocks.seed_of(feature.model.encode(), ex.tenant.encode(), feature.salt.encode())
            ex.hashes = blocks.chain(feature.text, seed)
            ex.pool = pool
        prompt_tokens = int(len(feature.text) / (4.0 if feature.is_tokens else pool.bytes_per_token)) + 1
        if uses_prefix:
            observed.levels = self.fleet.index.match(ex.hashes, observed.bits)
        else:
            observed.levels = [(0, observed.bits)]
        observed.now_ms = now_ms
        share = self.limits.kv_share
        observed.kv_share = share if share > 0.0 else 1.0
        return types.Request(prompt_tokens, ex.hashes, ex.session, feature.max_tokens), observed

    def holds(
        self, ex: exchange.Exchange, observed: types.Observed, backend: fleet.Backend, prompt: int, service_ms: float
    ) -> bool:
        """Whether `ex` has to wait: the endpoint that it wants has no room, and it has not waited too long.

        `service_ms` is what its prefill takes, which says who of those that wait goes first.
        """
        if self.limits.kv_share <= 0.0:
            return False
        now_ms = observed.now_ms
        since_ms = self.holding.since_ms(ex)
        late = since_ms is not None and now_ms - since_ms >= self.limits.hold_s * 1_000.0
        if late or self._has_room(ex, observed, backend, prompt):
            if since_ms is not None:
                self.holding.gone(ex, now_ms)
            return False
        self.holding.add(ex, now_ms, service_ms)
        return True

    def _has_room(self, ex: exchange.Exchange, observed: types.Observed, backend: fleet.Backend, prompt: int) -> bool:
        """Whether the endpoint's KV cache takes `ex`. What is shared is looked at only where it decides."""
        hashes = ex.hashes or []
        shared = 0 if backend.pins is None else _tokens(ex, backend.pins.shared_bytes(hashes))
        if admission.has_room(observed, backend, prompt - shared):
            return True
        if backend.pins is not None or not backend.active:
            return False
        backend.pins = found = pins.Pins(self.fleet.index.size_of)
        for other in backend.active:
            found.add(other.hashes or [])  # type: ignore[attr-defined]
        _count_held(ex, backend)
        return admission.has_room(observed, backend, prompt - _tokens(ex, found.shared_bytes(hashes)))

    def dispatch(self) -> None:
        """Lets those go on that were held and have room now."""
        self._dispatching = False
        self.holding.dispatch(self.now_ms())

    def _without(self, pool: fleet.ModelPool, tried: int) -> types.Observed:
        left = [endpoint for endpoint in pool.observed.endpoints if not endpoint.bit & tried]
        return dataclasses.replace(pool.observed, endpoints=left, bits=pool.bits & ~tried)

    def book(
        self,
        ex: exchange.Exchange,
        backend: fleet.Backend,
        prompt: int,
        cached: int,
        prefill_ms: float,
        now_ms: float,
    ) -> None:
        """`ex` goes to an endpoint, where its prefill is predicted to take so long."""
        uncached = prompt - cached
        if uncached < 1:
            uncached = 1
        ex.backend = backend
        ex.predicted_cached = cached
        ex.prompt_tokens = prompt
        ex.queued_tokens = uncached
        ex.queued_ms = prefill_ms
        ex.decode_since_ms = -1.0
        if not ex.features.stream:
            # Only a stream says when its prefill is over; for the rest it is predicted.
            eta = now_ms + backend.wait_ms(now_ms) + backend.base_ms + prefill_ms
            ex.prefill = prefill = [eta, next(self._order), ex]
            heapq.heappush(self._prefills, prefill)
        if not backend.waiting:
            backend.queued_ms = 0.0
            # After what the other gateways have sent there.
            backend.prefill_since_ms = now_ms + backend.peer_queued_ms
        backend.queued_ms += prefill_ms
        backend.queued_tokens += uncached
        backend.waiting += 1
        backend.running += 1
        backend.kv_tokens += prompt
        backend.fresh_tokens += uncached
        if backend.pins is not None:
            backend.pins.add(ex.hashes or [])
        _count_held(ex, backend)
        backend.placed(prompt, uncached, prefill_ms)
        backend.active.add(ex)
        hashes = ex.hashes
        if hashes:
            self.fleet.cached(backend, hashes)
            if self.placements is not None:
                self.placements.append((backend, hashes, prefill_ms))
        self.fleet.touch(backend)

    def prefilled(self, ex: exchange.Exchange) -> None:
        """The prompt of `ex` is prefilled: it decodes from now on."""
        backend = ex.backend
        if backend is not None and ex.queued_tokens:
            self._decodes(ex, backend, self.now_ms())

    def _decodes(self, ex: exchange.Exchange, backend: fleet.Backend, since_ms: float) -> None:
        self._unqueue(ex, backend)
        ex.decode_since_ms = since_ms
        backend.begin_decode(since_ms)
        self.fleet.touch(backend)

    def stands_still(self, ex: exchange.Exchange) -> None:
        """The stream of `ex` has brought nothing in the last tick: its time does not count as tokens (its client is slow)."""
        if ex.backend is not None:
            ex.decode_since_ms += TICK_S * 1_000.0
            ex.backend.decode_since_ms += TICK_S * 1_000.0

    def _unqueue(self, ex: exchange.Exchange, backend: fleet.Backend) -> None:
        """`ex` waits for its prefill no longer; what is queued behind it is begun now."""
        backend.queued_tokens -= ex.queued_tokens
        backend.queued_ms -= ex.queued_ms
        backend.waiting -= 1
        backend.prefill_since_ms = self.now_ms()
        ex.queued_tokens = 0

    def release(self, ex: exchange.Exchange) -> None:
        """`ex` has left its endpoint, whatever the reason."""
        backend = ex.backend
        if backend is None:
            return
        ex.backend = None
        prefill, ex.prefill = ex.prefill, None
        if prefill is not None:
            prefill[2] = None
        if ex.queued_tokens:
            self._unqueue(ex, backend)
        elif ex.decode_since_ms >= 0.0:
            backend.end_decode(ex.decode_since_ms)
        backend.running -= 1
        backend.kv_tokens -= ex.prompt_tokens
        backend.fresh_tokens -= max(1, ex.prompt_tokens - ex.predicted_cached)
        if backend.pins is not None:
            backend.pins.remove(ex.hashes or [])
        _count_held(ex, backend)
        backend.active.discard(ex)
        self.fleet.touch(backend)
        if self.holding.waiting and not self._dispatching:
            # Not at once: the caller is in the middle of something.
            self._dispatching = True
            self.loop.call_soon(self.dispatch)

    def _settle(self, now_ms: float) -> None:
        """Ends the predicted prefills whose time has come."""
        queue = self._prefills
        while queue and queue[0][0] <= now_ms:
            eta_ms, _, ex = heapq.heappop(queue)
            if ex is not None and ex.backend is not None and ex.queued_tokens:
                self._decodes(ex, ex.backend, eta_ms)

    def fade(self) -> None:
        """Takes what was placed as older by the time since this was last done."""
        passed_s = (self.tick - self._faded_tick) * TICK_S
        factor, busy_factor = math.exp(-passed_s / types.RECENT_S), math.exp(-passed_s / types.BUSY_S)
        self._faded_tick = self.tick
        for backend in self.fleet.backends.values():
            backend.fade(factor, busy_factor)

    def learn(self, ex: exchange.Exchange, backend: fleet.Backend, found: usage.Usage) -> None:
        """Takes what an engine reported of a prompt: tokens per byte, and how much was really cached."""
        prompt_tokens = found.prompt_tokens
        cached_tokens = found.cached_tokens
        feature = ex.features
        pool = ex.pool
        if pool is None:
            return
        if found.completion_tokens is not None:
            pool.learn_output(found.completion_tokens)
            # Only a stream tells when it began to generate.
            if feature.stream and found.completion_tokens > 1 and ex.decode_since_ms >= 0.0:
                backend.learn_token_ms((self.now_ms() - ex.decode_since_ms) / (found.completion_tokens - 1))
        if not feature.is_tokens:
            pool.learn_ratio(len(feature.text), prompt_tokens)
        if cached_tokens is not None and self.fleet.backends.get(backend.id) is backend:
            position = len(ex.hashes or ())
            resolution = blocks.size_of(position) / pool.bytes_per_token + (
                backend.record.capacity.block_size_tokens or 16
            )
            self.fleet.index.observe_cached(backend.slot, ex.predicted_cached, cached_tokens, resolution)

    def suspect(self, backend: fleet.Backend) -> None:
        """An attempt at `backend` has failed: nothing goes there until a probe succeeds."""
        if self.fleet.backends.get(backend.id) is not backend:
            return
        if backend.health is fleet.Health.OK:
            self.fleet.set_health(backend, fleet.Health.EJECTED)
            self.account.ejections += 1
        self.suspects[backend.id] = backend

    def readmit(self, backend: fleet.Backend) -> None:
        """A probe has succeeded."""
        self.suspects.pop(backend.id, None)
        if backend.health is fleet.Health.EJECTED:
            self.fleet.set_health(backend, fleet.Health.OK)
            self.account.readmissions += 1

    def on_tick(self) -> list[fleet.Backend]:
        """Ends what has run out of time; returns the endpoints that have been silent for too long. Every TICK_S."""
        self.tick += 1
        if self.holding.waiting:
            # Room may have come with an endpoint, or with what other gateways say.
            self.dispatch()
        for ex in list(self.active):
            ex.check_deadlines(self.tick)
        idle_ticks = int(self.limits.upstream_idle_s / TICK_S)
        silence_ticks = int(self.limits.silence_s / TICK_S)
        silent: list[fleet.Backend] = []
        for backend in self.fleet.backends.values():
            if backend.connections.idle:
                backend.connections.expire(self.tick, idle_ticks)
            if backend.active and self.tick - backend.last_byte_tick > silence_ticks:
                silent.append(backend)
        return silent


def _tokens(ex: exchange.Exchange, text_bytes: int) -> int:
    """Tokens of so much text of the model that `ex` asks for."""
    pool = ex.pool
    return 0 if pool is None else int(text_bytes / (4.0 if ex.features.is_tokens else pool.bytes_per_token))


def _count_held(ex: exchange.Exchange, backend: fleet.Backend) -> None:
    """What the requests in flight hold of an endpoint's KV cache has changed with `ex`."""
    found = backend.pins
    if found is None:
        backend.held_tokens = backend.kv_tokens
    elif backend.kv_tokens < _UNPINNED_SHARE * backend.capacity_tokens:
        backend.pins = None
        backend.held_tokens = backend.kv_tokens
    else:
        backend.held_tokens = min(backend.kv_tokens, _tokens(ex, found.held_bytes))

"""One request's life after its body is there: route, send, relay, account; again elsewhere while nothing was answered.

Rules for trying again (tests/integration/router/test_failures.py):
- A connection that was kept from an earlier request and ends before the first byte of an answer: again, same endpoint.
- A connection that cannot be made, or a new one that ends before the first byte: again, another endpoint; the failed one
  takes no requests until a probe succeeds. At most `max_attempts` endpoints.
- After the first byte that a client was given: never. A stream ends with an error event, anything else with a closed
  connection, which no client can take for a complete answer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from penstock.api.errors import Reason, error_body
from router.dataplane import framing, heads, upstream, usage
from router.dataplane.gateway import TICK_S, NoEndpointError, UnknownModelError

if TYPE_CHECKING:
    from router.dataplane import features, fleet, front, gateway

# An answer by length is held until it is whole, up to this size, so that a broken one can be tried again.
HOLD_BYTES = 262_144
_TAIL_BYTES = 4_096
_SMALL_BYTES = 96
# A stream that has brought nothing for so long stands still.
_STILL_S = 1.0

_HEAD, _LENGTH, _CHUNKED, _UNTIL_CLOSE, _DONE = range(5)


class Exchange(upstream.Listener):
    """One request between a client's connection and an engine's."""

    __slots__ = (
        "attempts", "backend", "chunks", "connecting", "connection", "decode_since_ms", "features", "first_byte_ms", "front",
        "gateway", "hashes", "head", "held", "keep_upstream", "last_tick", "pool", "predicted_cached", "prefill", "prior",
        "profile", "prompt_tokens", "queued_ms", "queued_tokens", "received", "remaining", "request", "request_id", "scanner",
        "session", "started_ms", "started_tick", "state", "tail", "tenant", "tried", "wrote",
    )  # fmt: skip

    def __init__(
        self,
        owner: gateway.Gateway,
        client: front.FrontProtocol,
        feature: features.Features,
        request: tuple[bytes, bytes, bytes],
        request_id: bytes,
        prepared: heads.Prepared,
    ) -> None:
        self.gateway = owner
        self.front = client
        self.features = feature
        # Request line, headers without host, body.
        self.request = request
        self.request_id = request_id
        self.tenant = prepared.tenant
        self.profile = prepared.profile
        self.session = prepared.session
        if self.session is None and feature.user:
            self.session = heads.session_of(feature.user.encode())
        self.hashes: list[int] | None = None
        self.pool: fleet.ModelPool | None = None
        self.backend: fleet.Backend | None = None
        self.connection: upstream.Connection | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.attempts = 0
        self.tried = 0
        self.predicted_cached = 0
        # Entry of the gateway's queue of predicted prefills, while there is one.
        self.prefill: list[Any] | None = None
        self.prompt_tokens = 0
        self.queued_tokens = 0
        self.queued_ms = 0.0
        self.decode_since_ms = 0.0
        self.started_ms = owner.now_ms()
        self.started_tick = self.last_tick = owner.tick
        self.first_byte_ms = 0.0
        self.wrote = False
        self._reset()

    def _reset(self) -> None:
        self.state = _HEAD
        self.received = b""
        self.head: framing.Head | None = None
        self.held: list[bytes] | None = None
        self.remaining = 0
        self.scanner: framing.ChunkScanner | None = None
        self.prior = b""
        self.tail = b""
        self.chunks = 0
        self.keep_upstream = True

    def start(self) -> None:
        """Routes and sends for the first time."""
        self.gateway.active.add(self)
        self._attempt()

    def _attempt(self) -> None:
        self.attempts += 1
        self.go_on()

    def go_on(self) -> None:
        """Routes and sends, or waits until the gateway calls this again."""
        owner = self.gateway
        try:
            backend = owner.route(self, self.tried)
        except UnknownModelError:
            self._refuse(Reason.MODEL_NOT_FOUND, f"model {self.features.model!r} is not served here", "model")
            return
        except NoEndpointError:
            if self.tried:
                self._refuse(Reason.UPSTREAM_FAILED, "every endpoint of the model failed before it answered")
            else:
                self._refuse(Reason.NO_ENDPOINT, "no endpoint of the model is ready")
            return
        if backend is None:
            return
        connection = backend.connections.take()
        if connection is None:
            self.connecting = backend.connections.open(self)
        else:
            self._send(connection)

    def _send(self, connection: upstream.Connection) -> None:
        backend = self.backend
        transport = connection.transport
        assert backend is not None and transport is not None
        self.connection = connection
        connection.listener = self
        if len(backend.active) == 1:
            backend.last_byte_tick = self.gateway.tick
        line, headers, body = self.request
        if len(body) < 16_384:
            transport.write(b"".join((line, backend.connections.host_header, headers, body)))
        else:
            transport.writelines((line + backend.connections.host_header + headers, body))

    # What the upstream connection says.

    def upstream_connected(self, connection: upstream.Connection) -> None:
        """The connection that was asked for is there."""
        self.connecting = None
        self._send(connection)

    def upstream_unreachable(self, exc: BaseException) -> None:
        """The endpoint did not take a connection."""
        self.connecting = None
        self._failed("connect")

    def upstream_lost(self, exc: Exception | None) -> None:
        """The engine's connection ended while the answer was not complete."""
        connection, self.connection = self.connection, None
        if self.state == _UNTIL_CLOSE and exc is None:
            if self._lacks_its_end():
                self._cut("the engine's connection ended before the stream did", suspect=False)
            else:
                self._complete()
        elif self.wrote:
            self._cut("the engine's connection was lost")
        elif connection is not None and connection.used and not self.received and self.head is None:
            # A kept connection that the engine closed as we used it; says nothing about the endpoint.
            backend = self.backend
            assert backend is not None
            self.gateway.account.retried("stale_connection")
            backend.connections.close_idle()
            self.connecting = backend.connections.open(self)
        else:
            self._failed("lost")

    def upstream_data(self, data: bytes) -> None:
        """Bytes of the answer."""
        owner = self.gateway
        backend = self.backend
        assert backend is not None
        self.last_tick = backend.last_byte_tick = owner.tick
        try:
            if self.state == _CHUNKED:
                self._chunks(data)
            elif self.state == _HEAD:
                self._head(data)
            else:
                self._body(data)
        except framing.FramingError as exc:
            self._broken(exc)

    def _head(self, data: bytes) -> None:
        received = self.received + data if self.received else data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            if len(received) > framing.MAX_HEAD_BYTES:
                raise framing.FramingError("head of the answer is too long")
            self.received = received
            return
        head = self.backend.connections.heads.parse(received[:end])  # type: ignore[union-attr]
        rest = received[end + 4 :]
        if 100 <= head.status < 200:
            # Interim answers are for this hop only.
            self.received = b""
            if rest:
                self._head(rest)
            return
        self.head = head
        self.received = b""
        self.keep_upstream = head.keep_alive
        if head.chunked:
            self.state = _CHUNKED
            self.scanner = framing.ChunkScanner(framing.WHOLE_CHUNK_BYTES if self.front.takes_chunks else 1 << 62)
            if rest:
                self._chunks(rest)
        elif head.length is None:
            self.state = _UNTIL_CLOSE
            self.keep_upstream = False
            if rest:
                self._body(rest)
        else:
            self.state = _LENGTH
            self.remaining = head.length
            if head.length <= HOLD_BYTES:
                self.held = []
            self._body(rest)

    def _chunks(self, data: bytes) -> None:
        scanner = self.scanner
        assert scanner is not None
        forward, rest = scanner.feed(data)
        if rest:
            self.keep_upstream = False
        if not forward:
            return
        self.chunks += 1
        self._keep_tail(forward)
        client = self.front
        self._write(forward if client.takes_chunks else framing.dechunk(forward))
        if scanner.complete:
            self._complete()

    def _body(self, data: bytes) -> None:
        if self.state == _LENGTH:
            if len(data) > self.remaining:
                # Bytes after the end: nothing asked for them.
                data = data[: self.remaining]
                self.keep_upstream = False
            self.remaining -= len(data)
        held = self.held
        if held is not None:
            held.append(data)
            if not self.remaining:
                self._deliver_held(held)
            return
        if data:
            self.chunks += 1
            self._keep_tail(data)
            self._write(data)
        if self.state == _LENGTH and not self.remaining:
            self._complete()

    def _deliver_held(self, held: list[bytes]) -> None:
        body = held[0] if len(held) == 1 else b"".join(held)
        head = self.head
        assert head is not None
        if self._again_elsewhere(head):
            return
        self.prior = b""
        self.tail = body
        self._write(body)
        self._complete()

    def _again_elsewhere(self, head: framing.Head) -> bool:
        """Whether a worker that says it is not there (503 while it stops) makes us ask another one."""
        if head.status != 503 or self.attempts >= self.gateway.limits.max_attempts:
            return False
        backend = self.backend
        assert backend is not None and self.pool is not None
        if not self.pool.bits & ~(self.tried | backend.bit):
            return False
        self._end_upstream()
        self.tried |= backend.bit
        self.gateway.account.retried("unavailable")
        self.gateway.release(self)
        self._reset()
        self._attempt()
        return True

    def _keep_tail(self, data: bytes) -> None:
        """Keeps the end of the answer, where its usage is: the last larger pieces and the small ones after them."""
        if len(data) < _SMALL_BYTES and len(self.tail) < _TAIL_BYTES:
            self.tail += data
        else:
            self.prior = self.tail
            self.tail = data

    def _write(self, data: bytes) -> None:
        """Gives bytes to the client; the head goes with the first of them, so that until then another try is open."""
        if not self.wrote:
            self.wrote = True
            owner = self.gateway
            head = self.head
            assert head is not None
            self.first_byte_ms = owner.now_ms()
            if self.queued_tokens:
                owner.prefilled(self)
            data = self.front.answer_head(self, head) + data
        self.front.transport.write(data)

    # Ends.

    def _complete(self) -> None:
        owner = self.gateway
        backend = self.backend
        head = self.head
        assert backend is not None and head is not None
        connection, self.connection = self.connection, None
        if connection is not None:
            if self.keep_upstream:
                connection.release()
            else:
                connection.abort()
        self.state = _DONE
        now_ms = owner.now_ms()
        owner.release(self)
        owner.active.discard(self)
        self._count(head.status, backend, now_ms)
        self.front.finished(self)

    def _count(self, status: int, backend: fleet.Backend, now_ms: float) -> None:
        owner = self.gateway
        book = owner.account
        model = self.features.model
        book.answered(model, status)
        if status != 200:
            return
        totals = book.model(model)
        totals.e2e_s.observe((now_ms - self.started_ms) / 1_000.0)
        if self.features.stream:
            totals.ttft_s.observe((self.first_byte_ms - self.started_ms) / 1_000.0)
            if self.chunks > 1:
                totals.gap_s.observe((now_ms - self.first_byte_ms) / 1_000.0 / (self.chunks - 1))
        found = usage.find(
            self.prior[-_TAIL_BYTES:] + self.tail[-_TAIL_BYTES:] if self.prior else self.tail[-_TAIL_BYTES:]
        )
        if found is not None:
            totals.prompt_tokens += found.prompt_tokens
            totals.completion_tokens += found.completion_tokens or 0
            if found.cached_tokens is not None:
                totals.cached_tokens += found.cached_tokens
                totals.predicted_cached_tokens += self.predicted_cached
            owner.learn(self, backend, found)

    def _end_upstream(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abort()
        connecting, self.connecting = self.connecting, None
        if connecting is not None:
            connecting.cancel()

    def _broken(self, exc: Exception) -> None:
        self._end_upstream()
        if self.wrote:
            self._cut(f"the engine's answer is not valid HTTP ({exc})")
        else:
            self._failed("invalid")

    def _failed(self, reason: str) -> None:
        """An attempt has failed before the first byte: elsewhere, while there is somewhere else."""
        owner = self.gateway
        backend = self.backend
        assert backend is not None
        self._end_upstream()
        owner.release(self)
        owner.suspect(backend)
        self.tried |= backend.bit
        if self.attempts >= owner.limits.max_attempts:
            self._refuse(Reason.UPSTREAM_FAILED, f"{self.attempts} endpoints failed before they answered")
            return
        owner.account.retried(reason)
        self._reset()
        self._attempt()

    def _lacks_its_end(self) -> bool:
        """Whether a stream that lasts until the connection closes has not said `[DONE]`: then nothing else tells its end."""
        head = self.head
        return (
            self.features.stream
            and head is not None
            and head.status == 200
            and b"text/event-stream" in head.headers.lower()
            and b"[DONE]" not in self.prior[-_SMALL_BYTES:] + self.tail
        )

    def _cut(self, why: str, suspect: bool = True) -> None:
        """The answer has begun and cannot be finished. `suspect`: the endpoint is to blame."""
        owner = self.gateway
        backend = self.backend
        self._end_upstream()
        if backend is not None:
            owner.release(self)
            if suspect:
                owner.suspect(backend)
        owner.active.discard(self)
        owner.account.cut_streams += 1
        owner.account.answered(self.features.model, 502)
        # An event can follow whole chunks, or what lasts until the connection closes.
        mid_chunk = bool(self.scanner.inside) if self.scanner is not None else self.state != _UNTIL_CLOSE
        self.state = _DONE
        event = error_body(Reason.UPSTREAM_FAILED, f"{why} after {self.chunks} chunks; the answer is incomplete")
        self.front.cut(self, None if mid_chunk else event, ended_event=self.tail.endswith((b"\n\n\r\n", b"\n\n")))

    def _refuse(self, reason: Reason, message: str, param: str | None = None) -> None:
        owner = self.gateway
        owner.active.discard(self)
        owner.holding.gone(self, owner.now_ms())
        self.state = _DONE
        self.front.refuse(reason, message, param, self.request_id)
        self.front.finished(self)

    def client_left(self) -> None:
        """The client's connection is gone: the engine's is ended at once, so that it stops generating."""
        if self.state == _DONE:
            return
        self.state = _DONE
        owner = self.gateway
        self._end_upstream()
        owner.release(self)
        owner.active.discard(self)
        owner.holding.gone(self, owner.now_ms())
        owner.account.answered(self.features.model, 499)

    def pause(self) -> None:
        """The client reads too slowly: stop reading from the engine."""
        if self.connection is not None and self.connection.transport is not None:
            self.connection.transport.pause_reading()

    def resume(self) -> None:
        """The client reads again."""
        if self.connection is not None and self.connection.transport is not None:
            self.connection.transport.resume_reading()
        # A client that is slow is not an engine that is silent.
        self.last_tick = self.gateway.tick

    def check_deadlines(self, tick: int) -> None:
        """Ends the exchange where a time limit has passed, and counts no tokens of one that is silent. Called every TICK_S."""
        limits = self.gateway.limits
        silent_s = (tick - self.last_tick) * TICK_S
        limit_s = limits.idle_timeout_s if self.first_byte_ms else limits.first_byte_timeout_s
        total_s = (tick - self.started_tick) * TICK_S
        if silent_s > _STILL_S and self.features.stream and self.decode_since_ms >= 0.0:
            self.gateway.stands_still(self)
        if silent_s <= limit_s and total_s <= limits.total_timeout_s:
            return
        if self.front.write_paused and total_s <= limits.total_timeout_s and silent_s <= 2 * limit_s:
            return
        self._end_upstream()
        if self.wrote:
            self._cut(f"no bytes for {silent_s:.0f} s" if silent_s > limit_s else f"not complete after {total_s:.0f} s")
            return
        backend = self.backend
        if backend is not None:
            self.gateway.release(self)
        self._refuse(Reason.UPSTREAM_TIMEOUT, f"the engine sent nothing for {silent_s:.0f} s")

    def abandon(self) -> None:
        """The endpoint was found dead or hung by a probe: as if its connection had been lost."""
        if self.state == _DONE or self.backend is None:
            return
        self._end_upstream()
        if self.wrote:
            self._cut("the engine stopped answering")
        else:
            self._failed("hung")

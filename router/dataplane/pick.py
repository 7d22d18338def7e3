"""A request that another proxy carries: it is routed and booked like any other, and its bytes never pass here."""

from __future__ import annotations

from collections.abc import Callable

from router.dataplane import exchange, features, gateway, heads, usage

_TAIL_BYTES = 4_096


class Pick(exchange.Exchange):
    """See `exchange.Exchange`, of which only what routing and account need is there."""

    __slots__ = ("on_room",)

    def __init__(
        self, owner: gateway.Gateway, feature: features.Features, request_id: bytes, prepared: heads.Prepared
    ) -> None:
        self.gateway = owner
        self.features = feature
        self.request_id = request_id
        self.tenant = prepared.tenant
        self.profile = prepared.profile
        self.session = prepared.session
        if self.session is None and feature.user:
            self.session = heads.session_of(feature.user.encode())
        self.hashes = None
        self.pool = None
        self.backend = None
        self.connection = None
        self.connecting = None
        self.attempts = 1
        self.tried = 0
        self.predicted_cached = 0
        self.prefill = None
        self.prompt_tokens = 0
        self.queued_tokens = 0
        self.queued_ms = 0.0
        self.decode_since_ms = 0.0
        self.started_ms = owner.now_ms()
        self.started_tick = self.last_tick = owner.tick
        self.first_byte_ms = 0.0
        self.wrote = False
        self._reset()
        self.on_room: Callable[[], None] = _nothing

    def go_on(self) -> None:
        """The gateway that holds it has room, or thinks so."""
        self.on_room()

    def abandon(self) -> None:
        """Its endpoint was found dead: whoever carries it finds out by itself."""

    def answered(self) -> None:
        """The engine has begun to answer: the prompt is prefilled."""
        owner = self.gateway
        backend = self.backend
        if backend is None:
            return
        backend.last_byte_tick = owner.tick
        if not self.first_byte_ms:
            self.first_byte_ms = owner.now_ms()
            if self.queued_tokens:
                owner.prefilled(self)

    def saw(self, data: bytes) -> None:
        """A piece of the answer: its end holds the usage."""
        self.answered()
        self.tail = (self.tail + data)[-_TAIL_BYTES:]

    def ended(self, status: int) -> None:
        """The answer is over, with this status (0: it has not begun), or nobody waits for it any more."""
        owner = self.gateway
        backend = self.backend
        owner.holding.gone(self, owner.now_ms())
        if backend is None:
            return
        owner.release(self)
        if status:
            owner.account.answered(self.features.model, status)
        if status == 200:
            found = usage.find(self.tail)
            if found is not None:
                owner.learn(self, backend, found)


def _nothing() -> None:
    """Nobody waits for room."""

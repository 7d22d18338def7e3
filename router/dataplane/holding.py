"""Requests that are held at the gateway until an endpoint has room for them (`router.policy.admission`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from router.policy import admission

if TYPE_CHECKING:
    from router.dataplane import exchange

# Held requests that may find no room one after the other before the rest waits for the next occasion.
_MISSES = 4
# Of a longer queue only the oldest are looked at.
_LOOKED_AT = 512


@final
class Held:
    """One request that waits: since when, and the prefill that it was last predicted to need."""

    __slots__ = ("ex", "prefill_ms", "since_ms")

    def __init__(self, ex: exchange.Exchange, since_ms: float, prefill_ms: float) -> None:
        self.ex = ex
        self.since_ms = since_ms
        self.prefill_ms = prefill_ms


@final
class Holding:
    """The held requests of one gateway, oldest first. `total` and `held_s` count those that have gone on."""

    def __init__(self) -> None:
        self.waiting: dict[exchange.Exchange, Held] = {}
        self.total = 0
        self.held_s = 0.0

    def __len__(self) -> int:
        return len(self.waiting)

    def add(self, ex: exchange.Exchange, now_ms: float, prefill_ms: float) -> None:
        """Holds a request; one that was held before keeps its time and its place."""
        held = self.waiting.get(ex)
        if held is None:
            self.waiting[ex] = Held(ex, now_ms, prefill_ms)
        else:
            held.prefill_ms = prefill_ms

    def since_ms(self, ex: exchange.Exchange) -> float | None:
        """Since when a request is held; None where it is not."""
        held = self.waiting.get(ex)
        return None if held is None else held.since_ms

    def gone(self, ex: exchange.Exchange, now_ms: float) -> None:
        """A request waits no longer, whatever the reason."""
        held = self.waiting.pop(ex, None)
        if held is not None:
            self.total += 1
            self.held_s += (now_ms - held.since_ms) / 1_000.0

    def dispatch(self, now_ms: float) -> None:
        """Tries those that are due, in the order of their response ratio, until a few find no room."""
        if not self.waiting:
            return
        queue: list[tuple[float, int, Held]] = []
        for held in self.waiting.values():
            ratio = admission.response_ratio(now_ms - held.since_ms, held.prefill_ms)
            queue.append((-ratio, len(queue), held))
            if len(queue) == _LOOKED_AT:
                break
        queue.sort()
        misses = 0
        for _, _, held in queue:
            if held.ex not in self.waiting:
                continue
            held.ex.go_on()
            if held.ex in self.waiting:
                misses += 1
                if misses == _MISSES:
                    return

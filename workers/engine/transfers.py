"""KV on its way from one engine to another, over links that are shared: the caller owns the clock.

Each worker has a link of its own that sends and receives at its full bandwidth at the same time. What it sends shares the one
half equally, what it receives the other, and a transfer is as fast as the smaller of its two shares. What that leaves free at
the other end is not given to others there, so a busy fleet is a little slower here than with a perfect sharing.
"""

from __future__ import annotations

_NEVER = float("inf")


class Transfer:
    """The KV of one request, from `source` to `target`. `payload` is the caller's."""

    __slots__ = (
        "begin_s",
        "bytes",
        "end_s",
        "generation",
        "left_bytes",
        "payload",
        "rate",
        "since_s",
        "source",
        "target",
    )

    def __init__(self, source: str, target: str, size_bytes: float, payload: object = None) -> None:
        self.source = source
        self.target = target
        self.bytes = size_bytes
        self.payload = payload
        self.left_bytes = size_bytes
        # Bytes per second since `since_s`, and when it ends at that rate.
        self.rate = 0.0
        self.begin_s = self.since_s = 0.0
        self.end_s = _NEVER
        # Rises with each change of `end_s`.
        self.generation = 0


class Links:
    """The links of a fleet and what is under way on them."""

    def __init__(self) -> None:
        self._bandwidth: dict[str, float] = {}
        self._sending: dict[str, dict[Transfer, None]] = {}
        self._receiving: dict[str, dict[Transfer, None]] = {}

    def add(self, worker: str, bytes_per_s: float) -> None:
        """A worker with a link. Raises ValueError for a bandwidth that is not positive."""
        if not bytes_per_s > 0:
            raise ValueError(f"bytes_per_s is {bytes_per_s}; it must be above 0")
        self._bandwidth[worker] = bytes_per_s
        self._sending[worker] = {}
        self._receiving[worker] = {}

    def under_way(self, worker: str) -> tuple[int, int]:
        """How many transfers a worker sends and receives."""
        return len(self._sending[worker]), len(self._receiving[worker])

    def start(self, transfer: Transfer, now_s: float) -> list[Transfer]:
        """Begin one. Returns all whose `end_s` has changed, it among them."""
        transfer.begin_s = transfer.since_s = now_s
        self._sending[transfer.source][transfer] = None
        self._receiving[transfer.target][transfer] = None
        return self._share(transfer.source, transfer.target, now_s)

    def stop(self, transfer: Transfer, now_s: float) -> list[Transfer]:
        """Take one away, done or not. Returns those whose `end_s` has changed; none if it was not under way."""
        if transfer not in self._sending[transfer.source]:
            return []
        del self._sending[transfer.source][transfer], self._receiving[transfer.target][transfer]
        transfer.generation += 1
        transfer.end_s = _NEVER
        return self._share(transfer.source, transfer.target, now_s)

    def set_bandwidth(self, worker: str, bytes_per_s: float, now_s: float) -> list[Transfer]:
        """A link is slower or faster from now on. Returns those whose `end_s` has changed."""
        self._bandwidth[worker] = bytes_per_s
        return self._share(worker, worker, now_s)

    def _share(self, source: str, target: str, now_s: float) -> list[Transfer]:
        """Gives each transfer that meets one of these its share anew."""
        changed: list[Transfer] = []
        for each in {**self._sending[source], **self._receiving[target]} if source != target else self._all(source):
            rate = min(
                self._bandwidth[each.source] / len(self._sending[each.source]),
                self._bandwidth[each.target] / len(self._receiving[each.target]),
            )
            if rate != each.rate:
                each.left_bytes = max(0.0, each.left_bytes - each.rate * (now_s - each.since_s))
                each.since_s = now_s
                each.rate = rate
                each.end_s = now_s + each.left_bytes / rate
                each.generation += 1
                changed.append(each)
        return changed

    def _all(self, worker: str) -> dict[Transfer, None]:
        return {**self._sending[worker], **self._receiving[worker]}

"""Targets that a request has to meet to count as good."""

import dataclasses

from penstock.report import outcome

NAMES = ("ttft", "itl", "e2e")
_UNITS_S = {"ms": 0.001, "s": 1.0}


@dataclasses.dataclass(frozen=True, slots=True)
class Slo:
    """Upper limits in seconds; None is no limit. `itl_s` holds for the mean gap of a request."""

    ttft_s: float | None = None
    itl_s: float | None = None
    e2e_s: float | None = None

    def met_by(self, found: outcome.Outcome) -> bool:
        """The answer came whole and within every limit; an answer of one chunk has no gap."""
        if not found.completed:
            return False
        pairs = ((self.ttft_s, found.ttft_s), (self.itl_s, found.mean_itl_s), (self.e2e_s, found.e2e_s))
        return all(limit is None or value is None or value <= limit for limit, value in pairs)


def duration_s(text: str) -> float:
    """Seconds of `500ms`, `1.5s` or `500` (ms). Raises `ValueError` naming the text."""
    number, unit_s = text.strip(), 0.001
    for unit in ("ms", "s"):
        if number.endswith(unit):
            number, unit_s = number[: -len(unit)], _UNITS_S[unit]
            break
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a duration like 500ms, 1.5s or 500 (milliseconds)")
    return value * unit_s


def parse(text: str) -> Slo:
    """The targets of `ttft=500ms,itl=50ms,e2e=10s`. Raises `ValueError` naming the part that is wrong."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, sign, value = part.strip().partition("=")
        if not sign or name not in NAMES:
            raise ValueError(f"{part.strip()!r} is not a target; write one of {', '.join(NAMES)} with =, as ttft=500ms")
        if name in limits:
            raise ValueError(f"{name} is given twice")
        limits[name] = duration_s(value)
    return Slo(limits.get("ttft"), limits.get("itl"), limits.get("e2e"))

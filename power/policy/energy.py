"""From a device's energy counter to joules since the start, and to watts where it tells none."""

from __future__ import annotations

import dataclasses

from power.policy import readings

# No socket and no GPU draws more. A counter that this could have taken around more than once between two looks says
# nothing of what was drawn between them.
_MOST_W = 4000.0


@dataclasses.dataclass(frozen=True)
class Counter:
    """What is known of one device's counter: its last value, when that was, and the joules counted since the first."""

    at_s: float
    raw_j: float
    total_j: float = 0.0
    watts: float | None = None


def advance(known: Counter | None, reading: readings.Reading, now_s: float) -> Counter | None:
    """The counter after one more look; None where the device has none.

    Watts are the mean since the look before. Where the counter fell and cannot have gone around, it began anew: what it
    shows was drawn since, as far as that can be, and no mean is known. Nor is it where the counter leapt further than
    anything draws. Source of the wrap: Linux' powercap, `max_energy_range_uj`.
    """
    if reading.joules is None:
        return known
    if known is None:
        return Counter(now_s, reading.joules)
    elapsed_s = now_s - known.at_s
    if elapsed_s <= 0:
        return known
    if reading.wrap_j is not None and elapsed_s * _MOST_W >= reading.wrap_j:
        return Counter(now_s, reading.joules, known.total_j)
    most_j = elapsed_s * _MOST_W
    drawn_j = reading.joules - known.raw_j
    if drawn_j < 0 and reading.wrap_j is not None:
        drawn_j += reading.wrap_j
    if not 0 <= drawn_j <= most_j:
        anew = reading.joules < known.raw_j and reading.joules <= most_j
        return Counter(now_s, reading.joules, known.total_j + (reading.joules if anew else 0.0))
    return Counter(now_s, reading.joules, known.total_j + drawn_j, drawn_j / elapsed_s)

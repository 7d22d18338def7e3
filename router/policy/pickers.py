"""Pickers: the index of the candidate to take, from scores and a state that the caller keeps."""

from __future__ import annotations

from collections.abc import Sequence

_MASK = (1 << 64) - 1


def lowest(scores: Sequence[float], state: int) -> int:
    """Index of the lowest score; equal ones are taken in turn, by `state`."""
    best = min(scores)
    if scores.count(best) == 1:
        return scores.index(best)
    ties = [position for position, score in enumerate(scores) if score == best]
    return ties[state % len(ties)]


def nearly_lowest(scores: Sequence[float], gains: Sequence[int], within: float, state: int) -> int:
    """Index of the score with the highest gain among those that are within a share of the lowest; of equal gains the lowest."""
    limit = min(scores) * (1.0 + within)
    best, ties = 0, 0
    for position, score in enumerate(scores):
        if score > limit:
            continue
        if not ties or gains[position] > gains[best] or (gains[position] == gains[best] and score < scores[best]):
            best, ties = position, 1
        elif gains[position] == gains[best] and score == scores[best]:
            ties += 1
    if ties == 1:
        return best
    gain, score = gains[best], scores[best]
    equal = [at for at, each in enumerate(scores) if each == score and gains[at] == gain]
    return equal[state % len(equal)]


def mix(state: int) -> int:
    """Next state of a counter-based random stream (splitmix64: Steele, Lea and Flood, OOPSLA 2014)."""
    return (state + 0x9E3779B97F4A7C15) & _MASK


def draw(state: int) -> int:
    """64 pseudo-random bits of a state (splitmix64's output function)."""
    mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)

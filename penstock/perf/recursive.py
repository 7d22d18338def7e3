"""Recursive least squares that forgets by regime, with coefficients that are never negative.

What is measured is a sum of non-negative terms, `y = sum(coefficient * x)`. Observations are weighted by 1 / y^2, so that
relative errors count. The memory is a few sums per cell (a range of total size); an observation lets only its own cell
forget, so what was learned of long prompts is still there after an hour of short ones. The coefficients are the
non-negative least squares solution of all cells' sums. A coefficient that the observations cannot tell from the others, or
that they say nothing of, is None, not zero.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]

_CELLS = 16
_FORGET = 0.98
# Of the error's own average.
_ERROR_FORGET = 0.97
# An engine is never steadier than this; below it, rounding and timers decide.
_LEAST_SIGMA = 0.01
_GATE_SIGMAS = 3.0
# So many rejected in a row are no outliers: the engine has changed.
_PATIENCE = 12
_WARM_UP = 12
# A term is known where the standard error of its mean share of y is below this.
_KNOWN_WITHIN = 0.1
_RIDGE = 1e-9


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """What is known by now. `coefficients` in the order of the terms; None where the observations do not tell."""

    coefficients: tuple[float | None, ...]
    error: float | None
    """Mean absolute relative error of predictions made before the accepted observations; None before there are any."""
    accepted: int
    rejected: int
    """Outliers and values that no measurement can have."""
    restarts: int
    """How often all was forgotten because the engine had changed."""


class Fit:
    """Learns `terms` coefficients from one observation after another."""

    def __init__(self, terms: int) -> None:
        if not 1 <= terms <= _WARM_UP // 2:
            raise ValueError(f"terms is {terms}; it must be 1 to {_WARM_UP // 2}")
        self._terms = terms
        self._cells: dict[int, tuple[_Array, _Array, float]] = {}
        self._first: list[tuple[_Array, float]] = []
        self._solution: _Array | None = None
        # Of the last solution: inverse of the scaled normal matrix, and the scale of each term.
        self._inverse = np.eye(terms)
        self._scale = np.ones(terms)
        self._known: tuple[bool, ...] = (False,) * terms
        self._variance = 0.0
        self._error: float | None = None
        self._accepted = self._rejected = self._restarts = self._in_a_row = 0

    def observe(self, x: Sequence[float], y: float) -> bool:
        """Take one observation: the terms and their measured sum. False where it was rejected."""
        if len(x) != self._terms:
            raise ValueError(f"{len(x)} terms; there are {self._terms}")
        row = np.array(x, dtype=np.float64)
        if not (math.isfinite(y) and y > 0 and np.isfinite(row).all() and (row >= 0).all() and row.any()):
            self._rejected += 1
            return False
        if self._solution is None:
            self._first.append((row, y))
            self._accepted += 1
            if len(self._first) >= _WARM_UP:
                self._begin()
            return True
        return self._judge(row, y)

    def predict(self, x: Sequence[float]) -> float | None:
        """What the sum will be; None before enough was observed."""
        if self._solution is None:
            return None
        return float(self._solution @ np.array(x, dtype=np.float64))

    @property
    def estimate(self) -> Estimate:
        """Coefficients and figures."""
        values: tuple[float | None, ...] = (None,) * self._terms
        if self._solution is not None:
            values = tuple(float(v) if known else None for v, known in zip(self._solution, self._known, strict=True))
        return Estimate(values, self._error, self._accepted, self._rejected, self._restarts)

    def _judge(self, row: _Array, y: float) -> bool:
        assert self._solution is not None
        expected = float(self._solution @ row)
        off = y / expected - 1.0 if expected > 0 else math.inf
        if abs(off) > _GATE_SIGMAS * self._sigma * math.sqrt(1.0 + self._leverage(row, expected)):
            self._rejected += 1
            self._in_a_row += 1
            if self._in_a_row < _PATIENCE:
                self._first.append((row, y))
                return False
            self._restart(row, y)
            return True
        self._in_a_row = 0
        self._first.clear()
        self._accepted += 1
        # What the gate cuts off a normal law's tails is missing in the average: 0.973 at three sigmas.
        self._variance += (1 - _ERROR_FORGET) * (off * off / 0.973 - self._variance)
        self._error = abs(off) if self._error is None else self._error + (1 - _ERROR_FORGET) * (abs(off) - self._error)
        self._add(row, y, expected)
        self._solve()
        return True

    @property
    def _sigma(self) -> float:
        return math.sqrt(max(self._variance, _LEAST_SIGMA**2))

    def _leverage(self, row: _Array, expected: float) -> float:
        """Variance of the prediction itself, as a multiple of the noise's: large far from what was observed."""
        part = row / (max(expected, 1e-12) * self._scale)
        return float(part @ self._inverse @ part)

    def _begin(self) -> None:
        """The first fit, by least median of squares (Rousseeuw 1984), which bears that nearly half are outliers.

        Every smallest set of observations that gives a fit is tried; what is near the one with the least median
        deviation is what the memory begins with.
        """
        rows, self._first = self._first, []
        every = np.stack([row / y for row, y in rows])
        chosen = np.array(list(itertools.combinations(range(len(rows)), self._terms)))
        # Terms differ by orders of magnitude: pinv has to see them alike.
        size = every.max(axis=0, initial=0.0)
        scaled = every / np.where(size > 0, size, 1.0)
        tried = np.linalg.pinv(scaled[chosen], rcond=1e-9).sum(axis=2)
        offs = np.abs(tried @ scaled.T - 1.0)
        middles = np.median(offs, axis=1)
        best = int(np.argmin(middles))
        least, off = float(middles[best]), offs[best]
        # From a median deviation to a standard deviation, for a normal law and so few points (the same source).
        sigma = max(1.4826 * (1 + 5 / (len(rows) - self._terms)) * least, _LEAST_SIGMA)
        self._variance = sigma * sigma
        kept = np.flatnonzero(off <= _GATE_SIGMAS * sigma).tolist()
        self._remember(rows, kept)
        self._accepted -= len(rows) - len(kept)
        self._rejected += len(rows) - len(kept)
        self._in_a_row = 0

    def _remember(self, rows: Sequence[tuple[_Array, float]], chosen: Iterable[int]) -> None:
        """Nothing but these."""
        self._cells.clear()
        for at in chosen:
            row, y = rows[at]
            self._add(row, y, y)
        self._solve()

    def _restart(self, row: _Array, y: float) -> None:
        """The engine is another than it was: begin again with the observations that did not fit."""
        self._restarts += 1
        self._rejected -= len(self._first) + 1
        self._accepted += len(self._first) + 1
        self._first.append((row, y))
        self._begin()

    def _add(self, row: _Array, y: float, scale: float) -> None:
        # Cells double in size; what decides is the measured time that the terms come to.
        cell = int(math.log2(max(scale, 1e-9))) % _CELLS
        matrix, vector, weight = self._cells.get(cell, (np.zeros((self._terms,) * 2), np.zeros(self._terms), 0.0))
        part = row / scale
        self._cells[cell] = (
            _FORGET * matrix + np.outer(part, part),
            _FORGET * vector + part * (y / scale),
            _FORGET * weight + 1.0,
        )

    def _solve(self) -> None:
        matrix = sum((cell[0] for cell in self._cells.values()), np.zeros((self._terms,) * 2))
        vector = sum((cell[1] for cell in self._cells.values()), np.zeros(self._terms))
        weight = sum(cell[2] for cell in self._cells.values())
        size = np.sqrt(np.diag(matrix))
        seen = size > 0
        scale = np.where(seen, size, 1.0)
        normal = matrix / np.outer(scale, scale)
        ridge = normal + _RIDGE * np.eye(self._terms) + np.diag(~seen)
        self._solution = _non_negative(ridge, vector / scale) / scale
        self._inverse, self._scale = np.linalg.inv(ridge), scale
        shares = self._sigma * np.sqrt(np.diag(self._inverse) / weight)
        self._known = tuple(bool(there and share < _KNOWN_WITHIN) for there, share in zip(seen, shares, strict=True))


def _non_negative(matrix: _Array, vector: _Array) -> _Array:
    """The minimum of x' matrix x - 2 vector' x over x >= 0, by trying every set of positive coefficients (few terms)."""
    terms = len(vector)
    best, least = np.zeros(terms), 0.0
    for count in range(terms, 0, -1):
        for chosen in itertools.combinations(range(terms), count):
            at = list(chosen)
            found = np.linalg.solve(matrix[np.ix_(at, at)], vector[at])
            if (found < 0).any():
                continue
            value = -float(vector[at] @ found)
            if value < least - 1e-15:
                least = value
                best = np.zeros(terms)
                best[at] = found
        if count == terms and best.any():
            # The unconstrained minimum has no negative sign: no set beats it.
            return best
    return best

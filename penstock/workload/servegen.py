"""ServeGen traces: one headerless CSV per client (`chunk-N-trace.csv`) with a row for each 600 s window:
start (s), rate (requests per s), coefficient of variation, `Gamma` or `Weibull`, shape, scale (s).

Source: alibaba/ServeGen. Arrivals are a renewal process whose gaps follow the window's law; the rows hold no
lengths, so these are drawn from a log-normal law with the chosen means.
"""

import dataclasses
import heapq
import math
import pathlib
from collections.abc import Iterator

import numpy

from penstock.workload import options, request, rows

WINDOW_S = 600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Arrivals of one client in 600 s from `start_s`: gaps follow `law` ("Gamma", "Weibull") with `shape`."""

    line: int
    start_s: float
    rate_rps: float
    law: str
    shape: float


def read(path: pathlib.Path, opts: options.ReadOptions, errors: request.RowErrors) -> Iterator[request.TraceRequest]:
    """Requests of all clients in order of arrival, drawn as they are asked for."""
    clients = []
    for file in rows.files(path, "chunk-*-trace.csv"):
        windows = list(_windows(file, errors))
        clients.append(_client(file.name, windows, opts))
    yield from heapq.merge(*clients, key=lambda each: each.arrival_s)


def _windows(file: pathlib.Path, errors: request.RowErrors) -> Iterator[Window]:
    last_s = -math.inf
    for line, text in rows.lines(file):
        try:
            window = _parse(text, line)
            if window is None:
                continue
            if window.start_s < last_s + WINDOW_S:
                raise rows.RowError(f"window at {window.start_s:g} s overlaps the one at {last_s:g} s")
        except rows.RowError as exc:
            errors.add(file.name, line, str(exc))
            continue
        last_s = window.start_s
        yield window


def _parse(text: bytes, line: int) -> Window | None:
    """The window of one row; None for a window without requests."""
    values = text.decode("utf-8", "replace").split(",")
    if len(values) != 6:
        raise rows.RowError(f"{len(values)} fields, 6 are needed")
    try:
        start_s, rate_rps, _, shape, scale_s = (float(values[i]) for i in (0, 1, 2, 4, 5))
    except ValueError as exc:
        raise rows.RowError(f"a field is not a number ({exc})") from exc
    if not all(0 <= value < math.inf for value in (start_s, rate_rps, shape, scale_s)):
        raise rows.RowError("a field is negative or not finite")
    if rate_rps == 0:
        return None
    law = values[3].strip()
    if law not in ("Gamma", "Weibull"):
        raise rows.RowError(f"law {law[:20]!r} is not known, Gamma or Weibull is needed")
    if shape <= 0 or scale_s <= 0:
        raise rows.RowError(f"{law} with shape {shape:g} and scale {scale_s:g}: both must be above 0")
    return Window(line, start_s, rate_rps, law, shape)


def _client(name: str, windows: list[Window], opts: options.ReadOptions) -> Iterator[request.TraceRequest]:
    rng = numpy.random.default_rng([opts.seed, *name.encode()])
    until_s = math.inf if opts.duration_s is None else opts.start_s + opts.duration_s
    for window in windows:
        if window.start_s + WINDOW_S <= opts.start_s:
            continue
        if window.start_s >= until_s:
            return
        for arrival_s in _arrivals(window, rng):
            yield request.TraceRequest(
                arrival_s=arrival_s,
                input_tokens=_length(rng, opts.input_tokens, opts.length_sigma),
                output_tokens=_length(rng, opts.output_tokens, opts.length_sigma),
                source=name,
                line=window.line,
            )


def _arrivals(window: Window, rng: numpy.random.Generator) -> list[float]:
    """As many arrivals as the window counted, with gaps of its law stretched to fill it exactly.

    The fitted scale is not used: it comes from the gaps inside the window, without the silence around them,
    and overstates the rate of a bursty client by up to two.
    """
    count = round(window.rate_rps * WINDOW_S)
    shapes = numpy.full(count + 1, window.shape)
    gaps = rng.gamma(shapes) if window.law == "Gamma" else rng.weibull(shapes)
    total = float(gaps.sum())
    if total <= 0:  # Every draw of a very small shape underflowed.
        gaps, total = numpy.ones(count + 1), count + 1.0
    arrivals: list[float] = (window.start_s + numpy.cumsum(gaps[:count]) * (WINDOW_S / total)).tolist()
    return arrivals


def _length(rng: numpy.random.Generator, mean: float, sigma: float) -> int:
    return max(1, round(mean * math.exp(sigma * float(rng.standard_normal()) - sigma * sigma / 2)))

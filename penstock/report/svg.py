"""Line plots as inline SVG, coloured by the page's style sheet."""

import dataclasses
import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 40


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line: its name, its points in order of x, and the class (`s0` to `s3`) that colours it."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str


def plot(lines: Sequence[Line], x_name: str, y_name: str, log_x: bool = False) -> str:
    """A plot with axes from 0 (or a power of ten), a grid and a legend; a sentence when there is no point."""
    points = [point for line in lines for point in line.points if not log_x or point[0] > 0]
    if not points:
        return '<p class="none">nothing to show</p>'
    x_ticks = _decades(points) if log_x else _ticks(max(x for x, _ in points))
    y_ticks = _ticks(max(y for _, y in points))
    x_low, x_high = (math.log10(x_ticks[0]), math.log10(x_ticks[-1])) if log_x else (0.0, x_ticks[-1])

    def at_x(value: float) -> float:
        place = math.log10(value) if log_x else value
        return _LEFT + (place - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)

    def at_y(value: float) -> float:
        return HEIGHT - _BOTTOM - value / y_ticks[-1] * (HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(y_name)} by {x_name}">']
    for value in x_ticks:
        x = at_x(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">{value:,g}</text>')
    for value in y_ticks:
        y = at_y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,g}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_name)}</text>')
    half = (_TOP + HEIGHT - _BOTTOM) / 2
    turned = f'transform="rotate(-90 12 {half})"'
    parts.append(f'<text x="12" y="{half}" text-anchor="middle" {turned}>{html.escape(y_name)}</text>')
    for line in lines:
        drawn = [(at_x(x), at_y(y)) for x, y in line.points if not log_x or x > 0]
        if drawn:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in drawn)
            parts.append(f'<path class="line {line.style}" d="M{path}"/>')
    keys = "".join(f'<span class="key {line.style}">{html.escape(line.name)}</span>' for line in lines)
    return "".join(parts) + f'</svg><p class="keys">{keys}</p>'


def heat_map(rows: Sequence[tuple[str, Sequence[float]]], end: float, x_name: str, y_name: str) -> str:
    """One row of cells per name, from 0 to `end`; a cell's value from 0 to 1 is how dark it is."""
    columns = max((len(values) for _, values in rows), default=0)
    if not columns:
        return '<p class="none">nothing to show</p>'
    step = max(3.0, min(18.0, 420 / len(rows)))
    height = _TOP + step * len(rows) + _BOTTOM
    width = (WIDTH - _LEFT - _RIGHT) / columns
    label = f"{html.escape(y_name)} by {html.escape(x_name)}"
    found = [f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{label}">']
    every = math.ceil(len(rows) / 24)
    for row, (name, values) in enumerate(rows):
        y = _TOP + row * step
        if row % every == 0:
            found.append(
                f'<text x="{_LEFT - 6}" y="{y + step / 2 + 4:.1f}" text-anchor="end">{html.escape(name)}</text>'
            )
        for column, value in enumerate(values):
            if value > 0.004:
                x = _LEFT + column * width
                found.append(
                    f'<rect class="heat" x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" height="{step - 0.5:.1f}"'
                    f' fill-opacity="{min(1.0, value):.2f}"><title>{html.escape(name)}: {value:.0%}</title></rect>'
                )
    for part in range(5):
        x = _LEFT + part / 4 * (WIDTH - _LEFT - _RIGHT)
        found.append(f'<text x="{x:.1f}" y="{height - 24:.0f}" text-anchor="middle">{end * part / 4:,.4g}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    found.append(f'<text x="{middle}" y="{height - 6:.0f}" text-anchor="middle">{html.escape(x_name)}</text></svg>')
    return "".join(found)


def _ticks(highest: float) -> list[float]:
    """From 0 to a round number at or above `highest`, in at most six steps."""
    if highest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(highest))
    step = next(s * power / 10 for s in (1, 2, 5, 10, 20, 50) if highest <= s * power / 10 * 6)
    return [round(i * step, 10) for i in range(math.ceil(highest / step - 1e-9) + 1)]


def _decades(points: Sequence[tuple[float, float]]) -> list[float]:
    low = math.floor(math.log10(min(x for x, _ in points)))
    high = max(low + 1, math.ceil(math.log10(max(x for x, _ in points))))
    return [10.0**power for power in range(low, high + 1)]

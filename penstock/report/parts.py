"""Parts of a report as one HTML page that needs nothing else: no script, no font, no picture."""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy

from penstock.report import outcome, svg

_MAX_CDF_POINTS = 400
_BINS = 60
_SLOWEST = 10

_STYLE = """
:root{color-scheme:light dark;--fg:#1d2329;--dim:#5c6670;--bg:#fff;--rule:#d9dee3;
--s0:#0b6bcb;--s1:#c2410c;--s2:#15803d;--s3:#7e22ce}
@media(prefers-color-scheme:dark){:root{
--fg:#e6e9ec;--dim:#9aa4ae;--bg:#14181c;--rule:#323a42;
--s0:#6cb2ff;--s1:#ff9a5c;--s2:#5fd38a;--s3:#c79bff}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1180px;
margin:2rem auto;
padding:0 1rem}h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:1rem 2rem}
.scroll{overflow-x:auto}table{border-collapse:collapse}
th,td{padding:.2rem .8rem .2rem 0;text-align:right;border-bottom:1px solid var(--rule);
font-variant-numeric:tabular-nums}th:first-child,td:first-child{text-align:left}th{color:var(--dim);
font-weight:500}
svg{width:100%;height:auto}svg text{fill:var(--dim);font-size:11px}.grid{stroke:var(--rule);fill:none}
.line{fill:none;stroke-width:1.8}.line.s0{stroke:var(--s0)}.line.s1{stroke:var(--s1)}
.line.s2{stroke:var(--s2)}
.line.s3{stroke:var(--s3)}.keys{margin:0;font-size:.85rem}.key{margin-right:1.2rem}.key::before{content:"";
display:inline-block;width:1.1em;height:3px;vertical-align:middle;margin-right:.4em;background:currentColor}
.key.s0{color:var(--s0)}.key.s1{color:var(--s1)}.key.s2{color:var(--s2)}.key.s3{color:var(--s3)}
.none{color:var(--dim)}.heat{fill:var(--s0)}
"""


def whole(title: str, parts: Sequence[str]) -> str:
    """The page with its head and style."""
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>",
            f"<body><h1>{html.escape(title)}</h1>",
            *parts,
            "</body></html>\n",
        )
    )


def section(title: str, body: str) -> str:
    """A titled part of the page."""
    return f"<section><h2>{title}</h2>{body}</section>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table that scrolls sideways where it is wide; a word where it is empty."""
    if not rows:
        return '<p class="none">none</p>'
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def cell(value: Any) -> str:
    """One value of a table; unknown ones are a dash."""
    if value is None:
        return "&ndash;"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 1 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else html.escape(str(value))


def cdf(values_s: Sequence[float | None], name: str, style: str) -> str:
    """Shares of values, in ms."""
    known = sorted(value for value in values_s if value is not None)
    return cdfs([("share", known, None, style)], name)


def cdfs(lines: Sequence[tuple[str, Sequence[float], Sequence[float] | None, str]], name: str) -> str:
    """Shares of sorted values in s, by ms: for each line its name, values, weights (None: all alike) and style.

    The axis is logarithmic where the values spread.
    """
    drawn: list[svg.Line] = []
    for shown, values_s, weights, style in lines:
        if len(values_s):
            drawn.append(svg.Line(shown, _shares(values_s, weights), style))
    points = [x for line in drawn for x, _ in line.points]
    spread = bool(points) and max(points) > 50 * max(min(points), 1e-3)
    if spread:
        drawn = [svg.Line(each.name, [(max(x, 0.01), y) for x, y in each.points], each.style) for each in drawn]
    return svg.plot(drawn, name, "share", log_x=spread)


def _shares(values_s: Sequence[float], weights: Sequence[float] | None) -> list[tuple[float, float]]:
    count = min(len(values_s), _MAX_CDF_POINTS)
    shares = [(i + 1) / count for i in range(count)]
    if weights is None:
        return [(values_s[math.ceil(share * len(values_s)) - 1] * 1000, share) for share in shares]
    reached = numpy.cumsum(weights)
    places = numpy.minimum(numpy.searchsorted(reached, numpy.array(shares) * reached[-1]), len(values_s) - 1)
    return [(float(values_s[place]) * 1000, share) for place, share in zip(places, shares, strict=True)]


def _width_s(outcomes: Sequence[outcome.Outcome]) -> float:
    ends = [each.end_s for each in outcomes if each.end_s is not None]
    return max(max(ends, default=0.0) / _BINS, 1e-3)


def load(outcomes: Sequence[outcome.Outcome]) -> str:
    """Requests sent, completed and failed per second."""
    width_s = _width_s(outcomes)
    lines = []
    groups = (
        ("sent", [each.sent_s for each in outcomes], "s0"),
        ("completed", [each.end_s for each in outcomes if each.completed], "s2"),
        ("failed", [each.end_s for each in outcomes if each.error is not None], "s1"),
    )
    for name, times_s, style in groups if outcomes else ():
        counts = [0] * (_BINS + 1)
        for time_s in times_s:
            if time_s is not None:
                counts[min(int(time_s / width_s), _BINS)] += 1
        points = [((i + 0.5) * width_s, count / width_s) for i, count in enumerate(counts[:_BINS])]
        lines.append(svg.Line(name, points, style))
    return svg.plot(lines, "s since the start", "requests per s")


def ttft(done: Sequence[outcome.Outcome]) -> str:
    """p50 and p95 of the time to first token by the time of sending."""
    width_s = _width_s(done)
    bins: dict[int, list[float]] = {}
    for each in done:
        if each.sent_s is not None and each.ttft_s is not None:
            bins.setdefault(int(each.sent_s / width_s), []).append(each.ttft_s * 1000)
    lines = []
    for quantile, style in ((50, "s0"), (95, "s1")):
        points = [((i + 0.5) * width_s, float(numpy.percentile(bins[i], quantile))) for i in sorted(bins)]
        lines.append(svg.Line(f"p{quantile}", points, style))
    return svg.plot(lines, "sent, s since the start", "TTFT, ms")


def errors(figures: dict[str, Any]) -> str:
    """Errors by kind."""
    return table(("kind", "requests"), list(figures["errors_by_kind"].items()))


def slowest(done: Sequence[outcome.Outcome]) -> str:
    """The requests that waited longest for a first token."""
    ranked = sorted(done, key=lambda each: -(each.ttft_s or 0.0))[:_SLOWEST]
    rows = [
        (
            f"{each.source}:{each.line}",
            each.request_id,
            each.endpoint,
            each.input_tokens,
            (each.ttft_s or 0) * 1000,
        )
        for each in ranked
    ]
    return table(("trace row", "request id", "endpoint", "input tokens", "TTFT, ms"), rows)

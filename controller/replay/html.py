"""The report of a run as one HTML page that needs nothing else: no script, no font, no picture."""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy

from penstock.report import outcome, summary, svg

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
.none{color:var(--dim)}
"""


def page(run: summary.Run, figures: dict[str, Any]) -> str:
    """The whole page. `figures` is `summary.summarize(run)`. It names no prompt, key or address of the target."""
    done = [each for each in run.outcomes if each.completed]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>Penstock replay</title><style>{_STYLE}</style></head><body><h1>Penstock replay</h1>",
        _interrupted(run),
        "<h2>Figures</h2>" + _figures(figures),
        "<h2>Latency, ms</h2>" + _latency(figures),
        '<div class="plots">',
        _section("Time to first token, share of requests", _cdf([each.ttft_s for each in done], "TTFT, ms", "s0")),
        _section("End to end, share of requests", _cdf([each.e2e_s for each in done], "E2E, ms", "s1")),
        _section("Between chunks, share of gaps", _cdf(list(run.gaps_s), "ITL, ms", "s2")),
        _section("Load over time", _load(run.outcomes)),
        _section("Time to first token over time", _ttft(done)),
        "</div>",
        "<h2>Endpoints</h2>" + _endpoints(figures),
        "<h2>Errors</h2>" + _errors(figures),
        "<h2>Slowest first tokens</h2>" + _slowest(done),
        "</body></html>\n",
    ]
    return "".join(parts)


def _interrupted(run: summary.Run) -> str:
    return "<p><strong>Interrupted:</strong> only what was sent until then.</p>" if run.interrupted else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return '<p class="none">none</p>'
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return "&ndash;"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 1 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else html.escape(str(value))


def _figures(figures: dict[str, Any]) -> str:
    names = {
        "requests": "requests",
        "completed": "completed",
        "errors": "errors",
        "retries": "sent again",
        "bad_rows": "bad rows left out",
        "wall_s": "wall time, s",
        "completed_rps": "completed per s",
        "goodput_rps": "goodput per s",
        "output_tokens_per_s": "output tokens per s",
        "prompt_tokens": "prompt tokens",
        "cached_tokens": "of these cached",
        "reuse": "reuse",
    }
    rows = [(shown, figures[key]) for key, shown in names.items()]
    rows += [(f"target {name}, ms", limit) for name, limit in (figures["slo_ms"] or {}).items()]
    return _table(("figure", "value"), rows)


def _latency(figures: dict[str, Any]) -> str:
    names = {"ttft_ms": "TTFT", "itl_ms": "ITL", "e2e_ms": "E2E", "lateness_ms": "sent late by"}
    columns = ("mean", "p50", "p95", "p99")
    return _table(("", *columns), [(name, *(figures[key][c] for c in columns)) for key, name in names.items()])


def _cdf(values_s: Sequence[float | None], name: str, style: str) -> str:
    known = sorted(value * 1000 for value in values_s if value is not None)
    if not known:
        return svg.plot([], name, "share")
    count = min(len(known), _MAX_CDF_POINTS)
    shares = [(i + 1) / count for i in range(count)]
    points = [(known[math.ceil(share * len(known)) - 1], share) for share in shares]
    spread = known[-1] > 50 * max(known[0], 1e-3)
    if spread:
        points = [(max(x, 0.01), y) for x, y in points]
    return svg.plot([svg.Line("share", points, style)], name, "share", log_x=spread)


def _width_s(outcomes: Sequence[outcome.Outcome]) -> float:
    ends = [each.end_s for each in outcomes if each.end_s is not None]
    return max(max(ends, default=0.0) / _BINS, 1e-3)


def _load(outcomes: Sequence[outcome.Outcome]) -> str:
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


def _ttft(done: Sequence[outcome.Outcome]) -> str:
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


def _endpoints(figures: dict[str, Any]) -> str:
    columns = (
        "endpoint",
        "requests",
        "completed",
        "errors",
        "prompt tokens",
        "reuse",
        "TTFT p50",
        "TTFT p95",
    )
    rows = [
        (
            name,
            *(each[key] for key in ("requests", "completed", "errors", "prompt_tokens", "reuse")),
            *(each["ttft_ms"][key] for key in ("p50", "p95")),
        )
        for name, each in figures["endpoints"].items()
    ]
    return _table(columns, rows)


def _errors(figures: dict[str, Any]) -> str:
    return _table(("kind", "requests"), list(figures["errors_by_kind"].items()))


def _slowest(done: Sequence[outcome.Outcome]) -> str:
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
    return _table(("trace row", "request id", "endpoint", "input tokens", "TTFT, ms"), rows)

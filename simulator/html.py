"""The report of a simulation as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.report import parts, svg
from simulator import results

_STYLES = ("s0", "s1", "s2", "s3")
_COLUMNS = 90
_MAX_ROWS = 100


def page(result: results.Result) -> str:
    """The whole page: figures, latency by class, CDFs, time series, a heat map of the workers."""
    figures, outcomes = result.figures, result.outcomes
    done = [each for each in outcomes if each.completed]
    names = list(figures["classes"])
    classes = [(name, _STYLES[at % 4], [each for each in done if each.group == at]) for at, name in enumerate(names)]
    ttft = [(name, sorted(each.ttft_s or 0.0 for each in group), None, style) for name, style, group in classes]
    e2e = [(name, sorted(each.e2e_s or 0.0 for each in group), None, style) for name, style, group in classes]
    itl = [
        (name, gaps[0].tolist(), gaps[1].tolist(), style)
        for (name, style, _), gaps in zip(classes, result.gaps, strict=True)
    ]
    end_s = figures["wall_s"] or 0.0
    body = [
        "<h2>Figures</h2>" + _figures(figures, result.scenario.gateways.policy),
        "<h2>Latency by class, ms</h2>" + _latency(figures),
        '<div class="plots">',
        parts.section("Time to first token, share of requests", parts.cdfs(ttft, "TTFT, ms")),
        parts.section("End to end, share of requests", parts.cdfs(e2e, "E2E, ms")),
        parts.section("Between tokens, share of gaps", parts.cdfs(itl, "ITL, ms")),
        parts.section("Load over time", parts.load(outcomes)),
        parts.section("Time to first token over time", parts.ttft(done)),
        parts.section("Decoding sequences over time", _running(result)),
        parts.section("Prompt tokens computed per second", _computed(result)),
        *_pools_at_work(result),
        "</div>",
        parts.section("Workers at work (darker: a larger share of the time)", _heat(result, end_s)),
        "<h2>Pools</h2>" + _pools(figures),
        *_transfers(result),
        "<h2>Workers</h2>" + _workers(figures),
        "<h2>Errors</h2>" + parts.errors(figures),
        "<h2>Slowest first tokens</h2>" + parts.slowest(done),
    ]
    return parts.whole("Penstock simulation", body)


def _figures(figures: dict[str, Any], policy: str) -> str:
    names = {
        "requests": "requests",
        "completed": "completed",
        "errors": "errors",
        "retries": "sent again",
        "wall_s": "simulated time, s",
        "goodput_rps": "goodput per s",
        "output_tokens_per_s": "output tokens per s",
        "reuse_blocks": "reuse, blocks",
        "reuse": "reuse, tokens",
        "imbalance": "imbalance (most loaded worker over the mean)",
        "preemptions": "preemptions",
        "worker_seconds": "worker seconds",
        "gpu_seconds": "GPU seconds",
        "joules": "joules",
    }
    rows: list[tuple[str, Any]] = [("policy", policy), *((shown, figures[key]) for key, shown in names.items())]
    return parts.table(("figure", "value"), rows)


def _latency(figures: dict[str, Any]) -> str:
    kinds = {
        "ttft_ms": "TTFT",
        "itl_ms": "ITL",
        "tpot_ms": "ITL, mean of a request",
        "e2e_ms": "E2E",
        "queue_ms": "queued",
    }
    columns = ("mean", "p50", "p90", "p95", "p99")
    rows = [
        (name, shown, *(found[key][column] for column in columns))
        for name, found in figures["classes"].items()
        for key, shown in kinds.items()
    ]
    goodput = [
        (name, "within its targets", found["attained"], *[None] * 4) for name, found in figures["classes"].items()
    ]
    return parts.table(("class", "", *columns), [*rows, *goodput])


def _summed(result: results.Result, at: int, names: Sequence[str] | None = None) -> list[tuple[float, float]]:
    """Sum over workers of one quantity per second, by time; over all of them where none are named."""
    count = max((len(bins) for bins in result.bins.values()), default=0)
    totals = [0.0] * count
    for bins in result.bins.values() if names is None else [result.bins[name] for name in names]:
        for place, values in enumerate(bins):
            totals[place] += values[at]
    width_s = result.bin_s
    merge = max(1, count // _COLUMNS)
    points = []
    for begin in range(0, count, merge):
        here = totals[begin : begin + merge]
        points.append(((begin + len(here) / 2) * width_s, sum(here) / (len(here) * width_s)))
    return points


def _running(result: results.Result) -> str:
    return svg.plot([svg.Line("all workers", _summed(result, 1), "s2")], "s since the start", "sequences")


def _pools_at_work(result: results.Result) -> list[str]:
    """How busy each pool is over time; nothing where there is one pool."""
    rows = result.figures["endpoints"]
    lines = []
    for at, name in enumerate(result.figures["pools"]):
        members = [worker for worker in result.bins if rows[worker]["pool"] == name]
        shares = [(time_s, seconds / len(members)) for time_s, seconds in _summed(result, 0, members)]
        lines.append(svg.Line(name, shares, _STYLES[at % len(_STYLES)]))
    if len(lines) < 2:
        return []
    return [parts.section("Pools at work, share of their workers' time", svg.plot(lines, "s since the start", "share"))]


def _computed(result: results.Result) -> str:
    return svg.plot([svg.Line("all workers", _summed(result, 2), "s3")], "s since the start", "tokens per s")


def _heat(result: results.Result, end_s: float) -> str:
    count = max((len(bins) for bins in result.bins.values()), default=0)
    merge = max(1, -(-count // _COLUMNS))
    rows: list[tuple[str, list[float]]] = []
    for name, bins in result.bins.items():
        values = [
            sum(here[0] for here in bins[begin : begin + merge]) / (merge * result.bin_s)
            for begin in range(0, count, merge)
        ]
        rows.append((name, values))
    return svg.heat_map(_thinned(rows), max(end_s, count * result.bin_s), "s since the start", "worker")


def _thinned(rows: Sequence[tuple[str, list[float]]]) -> list[tuple[str, list[float]]]:
    """At most `_MAX_ROWS` rows: neighbours are averaged."""
    group = -(-len(rows) // _MAX_ROWS)
    if group <= 1:
        return list(rows)
    found = []
    for begin in range(0, len(rows), group):
        several = rows[begin : begin + group]
        mean = [sum(column) / len(several) for column in zip(*(values for _, values in several), strict=True)]
        found.append((f"{several[0][0]} +{len(several) - 1}", mean))
    return found


def _pools(figures: dict[str, Any]) -> str:
    keys = {
        "role": "role",
        "profile": "profile",
        "workers": "workers",
        "requests": "requests",
        "computed_tokens": "computed tokens",
        "utilization": "share of the time at work",
        "preemptions": "preemptions",
        "worker_seconds": "worker seconds",
        "joules": "joules",
    }
    rows = [(name, *(each[key] for key in keys)) for name, each in figures["pools"].items()]
    return parts.table(("pool", *keys.values()), rows)


def _transfers(result: results.Result) -> list[str]:
    """What went from worker to worker; nothing where none did."""
    found = result.figures["transfers"]
    if not found["count"]:
        return []
    columns = ("mean", "p50", "p90", "p95", "p99")
    rows = [
        (shown, *(found[key][column] for column in columns))
        for key, shown in (("transfer_ms", "transfer"), ("handover_ms", "first to second token"))
    ]
    keys = ("sent_bytes", "received_bytes", "transfer_s")
    sides = [
        (name, *(each[key] for key in keys)) for name, each in result.figures["pools"].items() if each["transfer_s"]
    ]
    return [
        "<h2>KV between workers, ms</h2>" + parts.table(("", *columns), rows),
        parts.table(("pool", "sent, bytes", "received, bytes", "transfers together, s"), sides),
        parts.section("KV between workers over time", _sent(result)),
    ]


def _sent(result: results.Result) -> str:
    """Bytes that arrived, per second, by time."""
    end_s = max(at_s for at_s, _ in result.sent)
    width_s = max(result.bin_s, end_s / _COLUMNS)
    sums = [0.0] * (int(end_s / width_s) + 1)
    for at_s, size in result.sent:
        sums[int(at_s / width_s)] += size
    points = [((place + 0.5) * width_s, size / width_s / 1e9) for place, size in enumerate(sums)]
    return svg.plot([svg.Line("all workers", points, "s1")], "s since the start", "10^9 bytes per s")


def _workers(figures: dict[str, Any]) -> str:
    columns = (
        "worker",
        "role",
        "requests",
        "computed tokens",
        "working, s",
        "reuse",
        "preemptions",
        "TTFT p50",
        "TTFT p95",
    )
    rows = [
        (
            name,
            *(each.get(key) for key in ("role", "requests", "computed_tokens", "working_s", "reuse", "preemptions")),
            *(each.get("ttft_ms", {}).get(key) for key in ("p50", "p95")),
        )
        for name, each in figures["endpoints"].items()
    ]
    return parts.table(columns, rows)

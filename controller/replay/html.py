"""The report of a replay as one HTML page."""

from typing import Any

from penstock.report import parts, summary


def page(run: summary.Run, figures: dict[str, Any]) -> str:
    """The whole page. `figures` is `summary.summarize(run)`. It names no prompt, key or address of the target."""
    done = [each for each in run.outcomes if each.completed]
    body = [
        _interrupted(run),
        "<h2>Figures</h2>" + _figures(figures),
        "<h2>Latency, ms</h2>" + _latency(figures),
        '<div class="plots">',
        parts.section(
            "Time to first token, share of requests", parts.cdf([each.ttft_s for each in done], "TTFT, ms", "s0")
        ),
        parts.section("End to end, share of requests", parts.cdf([each.e2e_s for each in done], "E2E, ms", "s1")),
        parts.section("Between chunks, share of gaps", parts.cdf(list(run.gaps_s), "ITL, ms", "s2")),
        parts.section("Load over time", parts.load(run.outcomes)),
        parts.section("Time to first token over time", parts.ttft(done)),
        "</div>",
        "<h2>Endpoints</h2>" + _endpoints(figures),
        "<h2>Errors</h2>" + parts.errors(figures),
        "<h2>Slowest first tokens</h2>" + parts.slowest(done),
    ]
    return parts.whole("Penstock replay", body)


def _interrupted(run: summary.Run) -> str:
    return "<p><strong>Interrupted:</strong> only what was sent until then.</p>" if run.interrupted else ""


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
    return parts.table(("figure", "value"), rows)


def _latency(figures: dict[str, Any]) -> str:
    names = {"ttft_ms": "TTFT", "itl_ms": "ITL", "e2e_ms": "E2E", "lateness_ms": "sent late by"}
    columns = ("mean", "p50", "p95", "p99")
    return parts.table(("", *columns), [(name, *(figures[key][c] for c in columns)) for key, name in names.items()])


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
    return parts.table(columns, rows)

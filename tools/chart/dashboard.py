"""The Grafana dashboard of the chart."""

from __future__ import annotations

import itertools
import json
from typing import Any

Object = dict[str, Any]

_HERE = 'namespace=~"$namespace"'
_MODEL = f'{_HERE},model=~"$model"'
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 24, 8
_QUANTILES = (0.5, 0.95, 0.99)


def _rate(metric: str, where: str, by: str = "") -> str:
    """Sum of a counter's rates."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{where}}}[$__rate_interval]))"


def _quantiles(metric: str, where: str) -> list[tuple[str, str]]:
    return [
        (f"histogram_quantile({each}, {_rate(f'{metric}_bucket', where, 'le')})", f"p{round(each * 100)}")
        for each in _QUANTILES
    ]


def _share(metric: str) -> str:
    """Of the prompt tokens."""
    return f"{_rate(metric, _MODEL)} / {_rate('penstock_gateway_prompt_tokens_total', _MODEL)}"


_G, _O, _N = "penstock_gateway_", "penstock_operator_", "penstock_node_"
# Rows: title, and its panels as title, unit, what it shows, queries with their legends.
_ROWS: tuple[tuple[str, tuple[tuple[str, str, str, list[tuple[str, str]]], ...]], ...] = (
    (
        "Requests",
        (
            (
                "Answers per second",
                "reqps",
                "Answers from engines by status",
                [(_rate(_G + "answers_total", _MODEL, "code"), "{{code}}")],
            ),
            (
                "Refused by gateways",
                "reqps",
                "Requests that a gateway answered itself",
                [(_rate(_G + "refusals_total", _HERE, "reason"), "{{reason}}")],
            ),
            (
                "In flight",
                "short",
                "Requests in flight by gateway",
                [(f"sum by (pod) ({_G}inflight{{{_HERE}}})", "{{pod}}")],
            ),
        ),
    ),
    (
        "Latency",
        (
            (
                "Time to the first token",
                "s",
                "From a stream's request to the first byte of its answer",
                _quantiles(_G + "time_to_first_token_seconds", _MODEL),
            ),
            (
                "Between chunks",
                "s",
                "Mean time between the chunks of a stream",
                _quantiles(_G + "chunk_gap_seconds", _MODEL),
            ),
            ("Whole request", "s", "To the end of the answer, status 200", _quantiles(_G + "request_seconds", _MODEL)),
        ),
    ),
    (
        "Tokens and prefix cache",
        (
            (
                "Tokens per second",
                "short",
                "As engines report them",
                [
                    (_rate(_G + "prompt_tokens_total", _MODEL), "prompt"),
                    (_rate(_G + "completion_tokens_total", _MODEL), "completion"),
                ],
            ),
            (
                "Prompt tokens that were cached",
                "percentunit",
                "Share that engines reported, and that the index predicted",
                [
                    (_share(_G + "cached_tokens_total"), "cached"),
                    (_share(_G + "predicted_cached_tokens_total"), "predicted"),
                ],
            ),
            (
                "Prefix index",
                "bytes",
                "Estimated memory by gateway",
                [(f"sum by (pod) ({_G}index_bytes{{{_HERE}}})", "{{pod}}")],
            ),
        ),
    ),
    (
        "Workers",
        (
            (
                "Endpoints",
                "short",
                "As gateways see them",
                [(f"max by (model, state) ({_G}endpoints{{{_MODEL}}})", "{{model}} {{state}}")],
            ),
            (
                "In flight by worker",
                "short",
                "From all gateways",
                [(f"sum by (endpoint) ({_G}endpoint_inflight{{{_HERE}}})", "{{endpoint}}")],
            ),
            (
                "Prompt tokens that wait",
                "short",
                "Still to prefill, from all gateways",
                [(f"sum by (endpoint) ({_G}endpoint_queued_tokens{{{_HERE}}})", "{{endpoint}}")],
            ),
        ),
    ),
    (
        "Faults",
        (
            (
                "Degraded",
                "short",
                "docs/routing.md says what each mode means",
                [
                    (f"max by (pod, mode) ({_G}degraded{{{_HERE}}}) > 0", "{{pod}} {{mode}}"),
                    (f"max by (pod, mode) ({_O}degraded{{{_HERE}}}) > 0", "{{pod}} {{mode}}"),
                    (f"max by (node, mode) ({_N}degraded{{{_HERE}}}) > 0", "{{node}} {{mode}}"),
                ],
            ),
            (
                "Tried again",
                "reqps",
                "Attempts on another worker",
                [(_rate(_G + "retries_total", _HERE, "reason"), "{{reason}}")],
            ),
            (
                "Ejections and cut streams",
                "short",
                "Workers taken out of routing; answers that could not be finished",
                [
                    (f"sum(increase({_G}ejections_total{{{_HERE}}}[$__rate_interval]))", "ejections"),
                    (f"sum(increase({_G}cut_streams_total{{{_HERE}}}[$__rate_interval]))", "cut streams"),
                ],
            ),
        ),
    ),
    (
        "Power",
        (
            (
                "Nodes",
                "watt",
                "What the measured devices draw, without psys, which holds the others; not the whole server",
                [(f'sum by (node, kind) ({_N}power_watts{{{_HERE},kind!="platform"}})', "{{node}} {{kind}}")],
            ),
            (
                "GPUs against their limits",
                "percentunit",
                "Power over the limit that holds now",
                [
                    (
                        f"max by (node, device) ({_N}power_watts{{{_HERE}}} / {_N}power_limit_watts{{{_HERE}}})",
                        "{{node}} {{device}}",
                    )
                ],
            ),
            (
                "GPUs that are slowed",
                "short",
                "By what keeps their clocks down",
                [(f"sum by (reason) ({_N}slowed{{{_HERE}}}) > 0", "{{reason}}")],
            ),
        ),
    ),
    (
        "Operator",
        (
            (
                "Passes per second",
                "ops",
                "Over objects, by their end",
                [(_rate(_O + "reconciles_total", _HERE, "kind, result"), "{{kind}} {{result}}")],
            ),
            (
                "Objects that are due",
                "short",
                "Waiting for a pass",
                [(f"max by (pod) ({_O}queue_depth{{{_HERE}}})", "{{pod}}")],
            ),
            (
                "Answers of the API server",
                "reqps",
                "Code 0: none came",
                [(_rate(_O + "api_calls_total", _HERE, "verb, code"), "{{verb}} {{code}}")],
            ),
        ),
    ),
)


def render() -> str:
    """The dashboard as JSON."""
    return json.dumps(_board(), indent=1) + "\n"


def _board() -> Object:
    numbers, panels, y = itertools.count(1), [], 0
    for title, items in _ROWS:
        grid = {"h": 1, "w": _WIDTH, "x": 0, "y": y}
        panels.append(
            {"id": next(numbers), "type": "row", "title": title, "gridPos": grid, "collapsed": False, "panels": []}
        )
        width = _WIDTH // len(items)
        for column, (name, unit, text, queries) in enumerate(items):
            panels.append(
                {
                    "id": next(numbers),
                    "type": "timeseries",
                    "title": name,
                    "description": text,
                    "datasource": _SOURCE,
                    "gridPos": {"h": _HEIGHT, "w": width, "x": column * width, "y": y + 1},
                    "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                    "targets": [
                        {"refId": chr(65 + number), "expr": expression, "legendFormat": legend}
                        for number, (expression, legend) in enumerate(queries)
                    ],
                }
            )
        y += 1 + _HEIGHT
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        _variable("namespace", f"label_values({_G}build_info, namespace)"),
        _variable("model", f"label_values({_G}endpoints{{{_HERE}}}, model)"),
    ]
    return {
        "title": "Penstock", "uid": "penstock", "tags": ["penstock"], "schemaVersion": 39, "version": 1, "editable": True,
        "refresh": "30s", "time": {"from": "now-1h", "to": "now"}, "templating": {"list": variables}, "panels": panels,
    }  # fmt: skip


def _variable(name: str, query: str) -> Object:
    asked = {"query": query, "refId": name}
    chosen = {"text": "All", "value": "$__all"}
    return {
        "name": name, "type": "query", "datasource": _SOURCE, "query": asked, "refresh": 2, "includeAll": True, "multi": True,
        "current": chosen,
    }  # fmt: skip

"""`penstock simulate`: what would have happened, on a virtual clock."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import click

from controller.cli import output
from penstock.report import slo
from penstock.workload import formats, request
from simulator import compare as comparison
from simulator import html, results, scenario, simulation

EXIT_FAILED, EXIT_USAGE = 1, 2
_NO_LIMITS = {"ttft_ms": None, "itl_ms": None, "e2e_ms": None}
_SHOWN = (
    "ttft_mean_ms",
    "ttft_p95_ms",
    "itl_p95_ms",
    "e2e_p95_ms",
    "goodput_rps",
    "completed",
    "reuse_blocks",
    "imbalance",
    "joules",
)


class _Group(click.Group):
    """`simulate ...` is `simulate run ...`, unless a comparison is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click, with the usual subcommand put in front."""
        if args[:1] not in (["compare"], ["run"]):
            args = ["run", *args]
        return super().parse_args(ctx, args)


def _slo(_: click.Context, __: click.Parameter, value: str | None) -> slo.Slo | None:
    try:
        return None if value is None else slo.parse(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say what is played; each replaces what the scenario says."""
    found = (
        click.option("--trace", type=click.Path(exists=True, path_type=pathlib.Path), help="Trace file or folder."),
        click.option("--format", "format_", type=click.Choice(list(formats.READERS)), help="What the trace is."),
        click.option("--limit", type=click.IntRange(1), help="Only the first N requests."),
        click.option("--raw-times", is_flag=True, help="Keep the trace's coarse clock (Mooncake ticks every 3 s)."),
        click.option("--workers", type=click.IntRange(1), help="Number of workers.  [default: 8]"),
        click.option("--blocks-per-worker", type=click.IntRange(1), help="KV blocks.  [default: the profile's]"),
        click.option("--block-size", type=click.IntRange(1), help="Tokens per block.  [default: the trace's]"),
        click.option("--profile", help="Engine profile.  [default: h200-llama3.1-8b-fp8]"),
        click.option("--gateways", type=click.IntRange(1), help="Number of gateways.  [default: 1]"),
        click.option("--speed", type=click.FloatRange(0, min_open=True), help="Times faster.  [default: 1]"),
        click.option(
            "--slo", "targets", callback=_slo, metavar="TARGETS", help="ttft=500ms,itl=50ms,e2e=10s; for goodput."
        ),
        click.option("--json", "json_to", is_flag=False, flag_value="-", metavar="[FILE]", help="Write JSON."),
    )
    for option in reversed(found):
        command = option(command)
    return command


@click.group(cls=_Group, short_help="Play a trace on a simulated fleet.")
def simulate() -> None:
    """Play a trace or a made-up workload on a simulated fleet."""


@simulate.command()
@click.argument("file", metavar="[SCENARIO.yaml]", required=False, type=click.Path(exists=True, path_type=pathlib.Path))
@_common
@click.option("--policy", help="Routing profile.  [default: default]")
@click.option("--seed", type=click.IntRange(0), help="Of everything that is drawn.  [default: 0]")
@click.option("--html", "html_to", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="Write a report.")
@click.pass_context
def run(context: click.Context, /, **given: Any) -> None:
    """Play SCENARIO, or a trace by flags alone, and print the figures.

    Flags go before what the scenario says. `penstock simulate compare A B C` plays several policies on the same
    arrivals. Exit status: 0 every request completed, 1 some failed, 2 wrong use, scenario or trace.
    """
    output.refuse_unwritable(given["json_to"], given["html_to"])
    try:
        result = simulation.run(_told(given, given["file"]))
    except (scenario.ScenarioError, request.TraceError) as exc:
        click.echo(f"penstock simulate: {exc}", err=True)
        context.exit(EXIT_USAGE)
    if given["json_to"] is not None:
        output.emit_json(result.figures, given["json_to"])
    if given["html_to"] is not None:
        given["html_to"].write_text(html.page(result), encoding="utf-8")
    if given["json_to"] != "-":
        _tables(result)
    if result.figures["completed"] < result.figures["requests"]:
        context.exit(EXIT_FAILED)


@simulate.command()
@click.argument("policies", nargs=-1, required=True, metavar="POLICY...")
@click.option("--scenario", "file", type=click.Path(exists=True, path_type=pathlib.Path), help="Scenario file.")
@_common
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1), help="Plays of each policy.")
@click.option("--seed", type=click.IntRange(0), help="The first seed.  [default: the scenario's]")
@click.pass_context
def compare(context: click.Context, /, **given: Any) -> None:
    """Play each POLICY on the same arrivals, over several seeds.

    Figures are means with 95 % confidence intervals; those of the JSON also tell, seed by seed, how each policy
    differs from the first. Exit status: 0 every request completed, 1 some failed, 2 wrong use.
    """
    output.refuse_unwritable(given["json_to"])
    terminal = output.is_terminal()
    try:
        told = _told(given, given["file"])
        seeds = range(told.seed, told.seed + given["seeds"])
        rows = comparison.compare(
            told,
            given["policies"],
            seeds,
            lambda policy, seed: click.echo(f"{policy}, seed {seed}", err=True) if terminal else None,
        )
    except (scenario.ScenarioError, request.TraceError) as exc:
        click.echo(f"penstock simulate: {exc}", err=True)
        context.exit(EXIT_USAGE)
    if given["json_to"] is not None:
        output.emit_json(comparison.as_json(rows, seeds), given["json_to"])
    if given["json_to"] != "-":
        cells = [(row.policy, *(_interval(row.figures[name], name) for name in _SHOWN)) for row in rows]
        output.table(cells, ("policy", *(name.replace("_", " ") for name in _SHOWN)))
    if any(row.failed for row in rows):
        context.exit(EXIT_FAILED)


def _interval(found: comparison.Interval | None, name: str) -> str:
    if found is None:
        return "-"
    digits = 3 if name in ("reuse_blocks", "imbalance") else 1
    mean = f"{found.mean:.3g}" if name == "joules" else f"{found.mean:,.{digits}f}"
    if found.half is None:
        return mean
    half = f"{found.half:.1g}" if name == "joules" else f"{found.half:,.{digits}f}"
    return f"{mean} ±{half}"


def _told(given: dict[str, Any], file: pathlib.Path | None) -> scenario.Scenario:
    """The scenario of the file, with what the flags replace in it."""
    told = scenario.load(file) if file is not None else scenario.Scenario()
    values = told.model_dump()
    for flag, key in (("speed", "speed"), ("seed", "seed")):
        if given.get(flag) is not None:
            values[key] = given[flag]
    if given["gateways"] is not None:
        values["gateways"]["count"] = given["gateways"]
    _workload(values, given)
    _workers(values, given)
    if given["targets"] is not None:
        if len(told.classes) > 1:
            names = ", ".join(each.name for each in told.classes)
            raise scenario.ScenarioError(
                f"--slo is for scenarios of one class; this one has {names}, with targets of their own"
            )
        values["classes"] = [{**values["classes"][0], **_NO_LIMITS, **_limits_ms(given["targets"])}]
    made = scenario.parse(values)
    return made if given.get("policy") is None else scenario.under(made, given["policy"])


def _workload(values: dict[str, Any], given: dict[str, Any]) -> None:
    if given["trace"] is not None:
        if given["format_"] is None:
            raise scenario.ScenarioError(f"--trace needs --format, one of {', '.join(formats.READERS)}")
        values["trace"] = {"path": given["trace"], "format": given["format_"]}
        values["generators"] = []
    for flag, change in (
        ("limit", {"limit": given["limit"]} if given["limit"] else None),
        ("raw-times", {"raw_times": True} if given["raw_times"] else None),
    ):
        if change is not None:
            if values["trace"] is None:
                raise scenario.ScenarioError(f"--{flag} is for traces; give one with --trace or in the scenario")
            if flag == "raw-times":
                change = {"reading": values["trace"].get("reading", {}) | change}
            values["trace"] = values["trace"] | change


def _workers(values: dict[str, Any], given: dict[str, Any]) -> None:
    if given["block_size"] is not None:
        values["fleet"]["block_size"] = given["block_size"]
    pairs = (("workers", "workers"), ("blocks_per_worker", "kv_blocks"))
    changes = {key: given[flag] for flag, key in pairs if given[flag] is not None}
    models = values["fleet"]["models"]
    if (changes or given["profile"] is not None) and (len(models) > 1 or len(models[0]["pools"]) > 1):
        raise scenario.ScenarioError("--workers, --blocks-per-worker and --profile are for fleets of one pool")
    models[0]["pools"][0].update(changes)
    if given["profile"] is not None:
        models[0]["profile"] = given["profile"]
        models[0]["pools"][0]["profile"] = None


def _limits_ms(targets: slo.Slo) -> dict[str, float]:
    limits = {"ttft_ms": targets.ttft_s, "itl_ms": targets.itl_s, "e2e_ms": targets.e2e_s}
    return {name: limit * 1000 for name, limit in limits.items() if limit is not None}


def _pools(figures: dict[str, Any]) -> None:
    """What each pool did, and what its workers sent each other."""
    keys = (
        ("workers", 0),
        ("requests", 0),
        ("utilization", 3),
        ("transfer_s", 1),
        ("worker_seconds", 0),
        ("joules", 0),
    )
    rows = [
        (name, *(output.text(each[key], digits) for key, digits in keys)) for name, each in figures["pools"].items()
    ]
    output.table(rows, ("pool", "workers", "requests", "at work", "transfers, s", "worker seconds", "joules"))
    sent = figures["transfers"]
    if sent["count"]:
        columns = ("mean", "p50", "p90", "p95", "p99")
        kinds = (("transfer", "transfer_ms"), ("first to second token", "handover_ms"))
        output.table([(shown, *(sent[key][c] for c in columns)) for shown, key in kinds], ("KV, ms", *columns))


def _tables(result: results.Result) -> None:
    figures = result.figures
    columns = ("mean", "p50", "p90", "p95", "p99")
    kinds = (("TTFT", "ttft_ms"), ("ITL", "itl_ms"), ("E2E", "e2e_ms"), ("queued", "queue_ms"))
    for name, found in figures["classes"].items():
        output.table([(shown, *(found[key][c] for c in columns)) for shown, key in kinds], (f"{name}, ms", *columns))
    plain = (
        ("requests", "requests", 0),
        ("completed", "completed", 0),
        ("errors", "errors", 0),
        ("retries", "retries", 0),
        ("simulated time, s", "wall_s", 1),
        ("goodput per s", "goodput_rps", 2),
        ("output tokens per s", "output_tokens_per_s", 1),
        ("reuse (leading blocks)", "reuse_blocks", 4),
        ("reuse (cached / prompt tokens)", "reuse", 4),
        ("imbalance", "imbalance", 3),
        ("preemptions", "preemptions", 0),
        ("worker seconds", "worker_seconds", 0),
        ("GPU seconds", "gpu_seconds", 0),
        ("joules", "joules", 0),
    )
    rows: list[tuple[str, Any]] = [(name, output.text(figures[key], digits)) for name, key, digits in plain]
    targeted = {each.name for each in result.scenario.classes if each.ttft_ms or each.itl_ms or each.e2e_ms}
    rows += [
        (f"within the targets of {name}", output.text(found["attained"], 4))
        for name, found in figures["classes"].items()
        if name in targeted
    ]
    output.table(rows, ("figure", "value"))
    if len(figures["pools"]) > 1:
        _pools(figures)
    if figures["errors_by_kind"]:
        output.table(list(figures["errors_by_kind"].items()), ("error", "requests"))

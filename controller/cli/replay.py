"""`penstock replay`: a trace against any OpenAI server, and how well it was served."""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import pydantic
import rich.console
import rich.progress

from controller.cli import output
from controller.replay import bodies, driver, html, plan, target
from penstock.report import slo, summary
from penstock.workload import formats, options, request

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
_SHOWN_BAD_ROWS = 20


def _slo(_: click.Context, __: click.Parameter, value: str | None) -> slo.Slo | None:
    try:
        return None if value is None else slo.parse(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _duration(_: click.Context, __: click.Parameter, value: str) -> float:
    try:
        return slo.duration_s(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _header(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition(":") for value in values]
    for name, sign, _value in pairs:
        if not sign or not name.strip():
            raise click.BadParameter("a header is written 'Name: value'")
    return {name.strip(): value.strip() for name, _, value in pairs}


@click.command(short_help="Replay a trace against an OpenAI server.")
@click.argument("trace", type=click.Path(exists=True, path_type=pathlib.Path))
@click.option("--format", "format_", required=True, type=click.Choice(list(formats.READERS)), help="What TRACE is.")
@click.option("--target", "url", default="http://127.0.0.1:8080", show_default=True, help="URL of the server.")
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Times faster.")
@click.option("--limit", type=click.IntRange(1), help="Only the first N requests.")
@click.option("--start", "start_s", default=0.0, type=click.FloatRange(0), help="Skip the trace's first S seconds.")
@click.option("--duration", "duration_s", type=click.FloatRange(0, min_open=True), help="Use S seconds of the trace.")
@click.option("--slo", "targets", callback=_slo, metavar="TARGETS", help="ttft=500ms,itl=50ms,e2e=10s; for goodput.")
@click.option("--endpoint", type=click.Choice(list(bodies.PATHS)), default="chat", show_default=True)
@click.option("--model", help="Model to ask for.  [default: the first of /v1/models]")
@click.option("--api-key", envvar="OPENAI_API_KEY", show_envvar=True, help="Bearer token; never shown or kept.")
@click.option("--policy", help="Routing policy to ask the gateway for.")
@click.option("--header", "extra", multiple=True, callback=_header, metavar="'NAME: VALUE'", help="Also send this.")
@click.option("--timeout", "timeout_s", default="600s", show_default=True, callback=_duration, help="For one request.")
@click.option(
    "--retries",
    default=2,
    show_default=True,
    type=click.IntRange(0),
    help="For connections broken before a byte.",
)
@click.option("--max-tokens-cap", type=click.IntRange(1), help="Ask for no longer answers than this.")
@click.option("--max-connections", default=4096, show_default=True, type=click.IntRange(1))
@click.option("--in-order", is_flag=True, help="A turn of a session waits for the end of the turn before it.")
@click.option("--ignore-eos", is_flag=True, help="Ask for answers of the trace's exact length (vLLM, SGLang).")
@click.option("--raw-times", is_flag=True, help="Keep the trace's coarse clock (Mooncake ticks every 3 s).")
@click.option("--bytes-per-token", default=4.0, show_default=True, help="Size of made-up prompts per token.")
@click.option("--input-tokens", type=float, help="Mean prompt length for ServeGen.")
@click.option("--output-tokens", type=float, help="Mean answer length for ServeGen.")
@click.option("--rate", "rate_rps", type=float, help="Requests per second where OpenAI bodies have no timestamp.")
@click.option("--seed", default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--strict", is_flag=True, help="Stop at the first row that cannot be used.")
@click.option("--json", "json_to", metavar="FILE|-", help="Write the figures as JSON.")
@click.option("--html", "html_to", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="Write a report.")
@click.pass_context
def replay(context: click.Context, /, **given: Any) -> None:
    """Send the requests of TRACE to an OpenAI server at the trace's own times, and measure.

    TRACE is a file, or a folder for the formats that have one file per client or session. Requests are sent
    whether or not earlier ones were answered. Exit status: 0 every request completed, 1 some failed, 2 wrong
    use or trace, 130 interrupted.
    """
    try:
        wanted = _plan(given)
        run = _run(wanted, quiet=given["json_to"] == "-")
    except (request.TraceError, target.TargetError) as exc:
        click.echo(f"penstock replay: {exc}", err=True)
        context.exit(EXIT_USAGE)
    _report(run, given["json_to"], given["html_to"])
    if run.interrupted:
        context.exit(EXIT_INTERRUPTED)
    if not all(each.completed for each in run.outcomes):
        context.exit(EXIT_FAILED)


def _plan(given: dict[str, Any]) -> plan.Plan:
    extra = dict(given["extra"])
    if given["policy"]:
        extra[plan.POLICY_HEADER] = given["policy"]
    names = (
        "seed",
        "raw_times",
        "bytes_per_token",
        "input_tokens",
        "output_tokens",
        "rate_rps",
        "start_s",
        "duration_s",
    )
    try:
        reading = options.ReadOptions(**{name: given[name] for name in names if given[name] is not None})
    except pydantic.ValidationError as exc:
        first = exc.errors()[0]
        name = str(first["loc"][0]).removesuffix("_rps").replace("_", "-")
        raise request.TraceError(f"--{name} is {first['input']}: {first['msg']}") from exc
    return plan.Plan(
        trace=given["trace"],
        format=given["format_"],
        to=target.parse(given["url"]),
        headers=target.headers(given["api_key"], extra),
        reading=reading,
        body=bodies.BodyOptions(given["model"], given["endpoint"], given["max_tokens_cap"], given["ignore_eos"]),
        drive=driver.DriveOptions(
            speed=given["speed"],
            timeout_s=given["timeout_s"],
            retries=given["retries"],
            in_order=given["in_order"],
            max_connections=given["max_connections"],
        ),
        targets=given["targets"],
        limit=given["limit"],
        strict=given["strict"],
    )


def _run(wanted: plan.Plan, quiet: bool) -> summary.Run:
    bad = 0

    def on_bad(row: request.BadRow) -> None:
        nonlocal bad
        bad += 1
        if bad <= _SHOWN_BAD_ROWS:
            click.echo(f"left out: {row}", err=True)
        elif bad == _SHOWN_BAD_ROWS + 1:
            click.echo("left out: more rows, only counted from here on", err=True)

    with _progress(quiet) as (on_start, on_done):
        return plan.execute(wanted, on_start, on_done, on_bad)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[tuple[Callable[[int], None], Callable[[Any], None]]]:
    """A bar on a terminal, nothing otherwise."""
    if quiet or not output.is_terminal(sys.stderr):
        yield (lambda _: None), (lambda _: None)
        return
    columns = (
        rich.progress.TextColumn("answered"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    # Twice a second: the bar shares two cores with what is measured.
    with rich.progress.Progress(
        *columns, console=rich.console.Console(stderr=True), refresh_per_second=2, transient=True
    ) as bar:
        task = bar.add_task("", total=None)
        yield (lambda total: bar.update(task, total=total)), (lambda _: bar.advance(task))


def _report(run: summary.Run, json_to: str | None, html_to: pathlib.Path | None) -> None:
    figures = summary.summarize(run)
    if json_to is not None:
        output.emit_json(figures, json_to)
    if html_to is not None:
        html_to.write_text(html.page(run, figures), encoding="utf-8")
    if json_to != "-":
        _tables(figures)


def _tables(figures: dict[str, Any]) -> None:
    names = (("TTFT", "ttft_ms"), ("ITL", "itl_ms"), ("E2E", "e2e_ms"), ("sent late by", "lateness_ms"))
    columns = ("ms", "mean", "p50", "p95", "p99")
    output.table([(name, *(figures[key][c] for c in columns[1:])) for name, key in names], columns)
    plain = (
        ("requests", "requests"),
        ("completed", "completed"),
        ("errors", "errors"),
        ("retries", "retries"),
        ("bad rows", "bad_rows"),
        ("wall time, s", "wall_s"),
        ("completed per s", "completed_rps"),
        ("goodput per s", "goodput_rps"),
        ("output tokens per s", "output_tokens_per_s"),
    )
    rows: list[tuple[str, Any]] = [(name, output.text(figures[key], 2)) for name, key in plain]
    rows.append(("reuse (cached / prompt tokens)", output.text(figures["reuse"], 4)))
    output.table(rows, ("figure", "value"))
    if figures["errors_by_kind"]:
        output.table(list(figures["errors_by_kind"].items()), ("error", "requests"))
    if figures["endpoints"]:
        ends = [
            (name, each["requests"], each["errors"], output.text(each["reuse"], 3), each["ttft_ms"]["p50"])
            for name, each in figures["endpoints"].items()
        ]
        output.table(ends, ("endpoint", "requests", "errors", "reuse", "ttft p50 ms"))

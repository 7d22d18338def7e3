"""`penstock calibrate`: how fast a running server is, as an engine profile."""

from __future__ import annotations

import asyncio
import json
import pathlib
import re
from typing import Any

import click

from controller.calibrate import fitting, measure, server
from controller.cli import output
from controller.replay import fetch, target
from penstock import perf

EXIT_FAILED, EXIT_USAGE = 1, 2
_SHORTEST_TOKENS = 16
_LENGTHS = 8
# Left of the context for what a template adds.
_MARGIN_TOKENS = 32


def _extra_body(_: click.Context, __: click.Parameter, value: str) -> dict[str, object]:
    try:
        found = json.loads(value)
    except ValueError as exc:
        raise click.BadParameter(f"{value!r} is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise click.BadParameter(f"{value!r} is no JSON object")
    if taken := measure.OWN_FIELDS & found.keys():
        raise click.BadParameter(f"{', '.join(sorted(taken))}: measuring sets these itself")
    return found


@click.command(short_help="Measure a server's speed.")
@click.option("--target", "url", default="http://127.0.0.1:8000", show_default=True, help="URL of one engine.")
@click.option("--model", help="Model to ask for.  [default: the first of /v1/models]")
@click.option("--api-key", envvar="OPENAI_API_KEY", show_envvar=True, help="Bearer token; never shown or kept.")
@click.option("--name", help="Name of the profile.  [default: from the model's]")
@click.option("--accelerator", default="unknown", show_default=True, help="What it runs on, as the profile says it.")
@click.option("--tp", default=1, show_default=True, type=click.IntRange(1), help="Tensor-parallel ranks.")
@click.option("--max-prompt", type=click.IntRange(64), help="Longest prompt, tokens.  [default: 8192, or what fits]")
@click.option("--max-batch", default=16, show_default=True, type=click.IntRange(1), help="Largest batch measured.")
@click.option("--output-tokens", default=48, show_default=True, type=click.IntRange(12), help="Tokens per answer.")
@click.option(
    "--rounds",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="Each point is a median of so many, or of up to three times as many where they differ.",
)
@click.option(
    "--pause", "pause_s", default=0.25, show_default=True, type=click.FloatRange(0),
    help="Idle time before each measurement, s. Clocks and caches that have to wake up are part of what is measured then; "
    "0 measures a server that is never idle.",
)  # fmt: skip
@click.option(
    "--extra-body", metavar="JSON", default="{}", callback=_extra_body,
    help="Fields of every request, such as the sampling parameters that clients use: these cost time in each step.",
)  # fmt: skip
@click.option("--kv-blocks", type=click.IntRange(1), help="KV cache, blocks.  [default: as its metrics say]")
@click.option("--block-size", type=click.IntRange(1), help="Tokens per block.  [default: as its metrics say, else 16]")
@click.option(
    "--max-num-batched-tokens", default=8192, show_default=True, type=click.IntRange(1), help="Tokens per step."
)
@click.option(
    "--max-num-seqs", default=256, show_default=True, type=click.IntRange(1), help="Sequences that it runs at once."
)
@click.option(
    "--timeout", "timeout_s", default=120.0, show_default=True, type=click.FloatRange(1), help="For one answer, s."
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="Write the profile here.  [default: print]"
)
@click.pass_context
def calibrate(context: click.Context, /, **given: Any) -> None:
    """Measure an idle OpenAI server and fit the step-time model to it.

    The profile works wherever a profile is named: `penstock simulate --profile FILE.json`. Every fifth point is kept out
    of the fit, and the error on those is shown. Exit status: 0 done, 1 the server could not be measured, 2 wrong use.
    """
    output.refuse_unwritable(given["out"])
    try:
        to = target.parse(given["url"])
        headers = target.headers(given["api_key"], {})
        found, made = asyncio.run(_run(to, headers, given))
    except target.TargetError as exc:
        click.echo(f"penstock calibrate: {exc}", err=True)
        context.exit(EXIT_USAGE)
    except measure.CalibrateError as exc:
        click.echo(f"penstock calibrate: {exc}", err=True)
        context.exit(EXIT_FAILED)
    text = made.model_dump_json(indent=2) + "\n"
    if given["out"] is None:
        click.echo(text, nl=False)
    else:
        given["out"].write_text(text, encoding="utf-8")
    _show(found, made)


async def _run(
    to: target.Target, headers: dict[str, str], given: dict[str, Any]
) -> tuple[measure.Measured, perf.EngineProfile]:
    model = given["model"] or await fetch.first_model(to, headers)
    told = await server.ask(to, headers, model)
    kv_blocks = given["kv_blocks"] or told.kv_blocks
    if kv_blocks is None:
        raise target.TargetError(
            f"{to.authority} does not tell the size of its KV cache; give --kv-blocks (and --block-size)"
        )
    wanted = _plan(to, headers, model, told, given)
    found = await measure.measure(wanted, _progress)
    fields = {
        "name": given["name"] or re.sub(r"[^a-z0-9.]+", "-", model.lower()).strip("-") or "engine",
        "model": model,
        "accelerator": given["accelerator"],
        "tp": given["tp"],
        "kv_blocks": kv_blocks,
        "block_size": given["block_size"] or told.block_size or 16,
        "max_num_batched_tokens": given["max_num_batched_tokens"],
        "max_num_seqs": given["max_num_seqs"],
        "source": "measured by penstock calibrate",
        "licence": "none",
    }
    return found, fitting.profile(found, fields, given["max_num_batched_tokens"])


def _plan(
    to: target.Target, headers: dict[str, str], model: str, told: server.Told, given: dict[str, Any]
) -> measure.Plan:
    room = (told.max_model_len or 1 << 30) - measure.LONGER * given["output_tokens"] - _MARGIN_TOKENS
    longest = min(given["max_prompt"] or 8192, room)
    if longest < 4 * _SHORTEST_TOKENS:
        raise target.TargetError(
            f"{to.authority} takes {told.max_model_len} tokens: too few for answers of --output-tokens"
        )
    step = (longest / _SHORTEST_TOKENS) ** (1 / (_LENGTHS - 1))
    lengths = [round(_SHORTEST_TOKENS * step**power) for power in range(_LENGTHS)]
    largest = min(given["max_batch"], given["max_num_seqs"])
    batches = sorted({1 << power for power in range(largest.bit_length()) if 1 << power <= largest} | {largest})
    # One sequence of much KV reads it at another speed than many of little.
    prompts = sorted({min(longest, each) for each in (64, max(128, longest // 4), max(256, longest // 2), longest)})
    return measure.Plan(
        to, headers, model, lengths, [longest // 4, longest // 2], batches, prompts, largest * max(128, longest // 4),
        given["output_tokens"], given["rounds"], given["timeout_s"], given["pause_s"], given["extra_body"],
    )  # fmt: skip


def _progress(done: int, of: int) -> None:
    if output.is_terminal():
        click.echo(f"\r{done} of {of}", err=True, nl=done == of)


def _show(found: measure.Measured, made: perf.EngineProfile) -> None:
    assert made.fit is not None
    step = made.step
    if not found.cached_known:
        click.echo("usage has no cached_tokens: prompts behind a cached prefix could not be measured", err=True)
    if found.spread > measure.STEADY:
        click.echo(
            f"the server or its machine was busy with something else: of {found.rounds} rounds the quickest "
            f"differ by {found.spread:.0%}; calibrate again when it is idle",
            err=True,
        )
    click.echo(
        f"{made.name}: {made.fit.points} points, mean error {made.fit.error:.1%}; {made.fit.held_back} kept out of the fit, "
        f"{made.fit.held_back_error:.1%}. w0 {step.w0:g}, b {step.b:g}, s {step.s:g}, kappa {step.kappa:g}, q {step.q:g}, "
        f"frontend {made.frontend_ms:g} ms and {made.frontend_ms_per_token:g} per token",
        err=True,
    )

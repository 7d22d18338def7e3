"""`python -m benchmarks.fidelity simulated|vllm`: how far the simulator is from real processes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pathlib
import signal
import sys
from typing import Any

import click

from benchmarks.fidelity import fleet, simulated, table, vllm
from controller.cli import output

TRACES = os.environ.get("PENSTOCK_TRACES")
_JSON = click.option("--json", "json_to", metavar="FILE|-", help="Write the figures as JSON.")


def _path(name: str) -> dict[str, Any]:
    default = pathlib.Path(TRACES) / name if TRACES else None
    return {
        "type": click.Path(exists=True, path_type=pathlib.Path),
        "default": default,
        "required": default is None,
        "show_default": f"{name} in $PENSTOCK_TRACES",
    }


@click.group()
def main() -> None:
    """Compare the simulator with real processes.

    Exit status: 0 they agree, 1 they do not, 2 the run failed, 3 the machine was too unsteady to say.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@main.command("simulated")
@click.option("--trace", **_path("mooncake_conversation.jsonl"))
@click.option("--policy", "policies", multiple=True, default=("default", "round-robin"), show_default=True)
@click.option("--requests", default=500, show_default=True, type=click.IntRange(1))
@click.option("--workers", default=8, show_default=True, type=click.IntRange(1))
@click.option("--blocks-per-worker", "kv_blocks", default=500, show_default=True, type=click.IntRange(1))
@click.option("--profile", default="h100-qwen3-32b-tp2", show_default=True)
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--start", "start_s", default=600.0, show_default=True, type=click.FloatRange(0))
@_JSON
@click.pass_context
def simulated_workers(context: click.Context, /, policies: tuple[str, ...], json_to: str | None, **given: Any) -> None:
    """Simulated workers in real time, behind a real gateway, and the simulator on the same requests."""
    setting = simulated.Setting(**given)
    try:
        measured = asyncio.run(simulated.measure(setting, policies))
    except fleet.FleetError as exc:
        click.echo(f"benchmarks.fidelity: {exc}", err=True)
        context.exit(2)
    predicted = {policy: simulated.simulate(setting, policy) for policy in policies}
    rows = [row for policy in policies for row in simulated.rows(policy, measured[policy], predicted[policy])]
    if json_to is not None:
        found = {"measured": measured, "simulated": predicted, "rows": [row.as_json() for row in rows]}
        output.emit_json(found, json_to)
    if json_to != "-":
        output.table([row.cells() for row in rows], table.HEAD)
        other = [
            (policy, output.text(measured[policy]["reuse"], 4), output.text(predicted[policy]["reuse"], 4),
             output.text(measured[policy]["lateness_ms"]["p95"], 1))
            for policy in policies
        ]  # fmt: skip
        output.table(other, ("run", "reuse measured", "reuse simulated", "sent late by, p95 ms"))
    context.exit(0 if all(row.met is not False for row in rows) else 1)


@main.command("vllm")
@click.option("--sessions", **_path("taubench"))
@click.option("--rounds", default=2, show_default=True, type=click.IntRange(1), help="Plays of each policy.")
@_JSON
@click.pass_context
def real_vllm(context: click.Context, /, json_to: str | None, **given: Any) -> None:
    """A real vLLM on CPU (make vllm) and the simulator with the profile that penstock calibrate finds for it."""
    try:
        found = asyncio.run(vllm.run(vllm.Setting(**given), lambda words: click.echo(words, err=True)))
    except fleet.FleetError as exc:
        click.echo(f"benchmarks.fidelity: {exc}", err=True)
        context.exit(2)
    rows, ranks = vllm.rows(found), vllm.ranks(found)
    if json_to is not None:
        output.emit_json(
            {
                "profile": found.profile.model_dump(),
                "one_engine": {"measured": found.alone, "simulated": found.alone_simulated},
                "two_engines": {each.load: dataclasses.asdict(each) for each in found.orders},
                "rows": [row.as_json() for row in rows],
                "ranks": ranks,
                "paces_ms": found.paces,
            },
            json_to,
        )
    if json_to != "-":
        output.table([row.cells() for row in rows], table.HEAD)
        means = [
            (
                order.load,
                policy,
                latency.removesuffix("_ms").upper(),
                *(f"{it:.1f}" for it in order.means(policy, latency)),
            )
            for order in found.orders
            for latency in table.LATENCIES
            for policy in vllm.POLICIES
        ]
        output.table(means, ("load", "policy", "mean", "measured, ms", "simulated, ms"), "two engines")
        output.table(ranks, ("load", "by", "better", "worse", "order in the simulator"))
        paces = [(part, " ".join(f"{each:.2f}" for each in took)) for part, took in found.paces.items()]
        output.table(paces, ("part", "processor time of the same small computation, ms"), "the machine's own pace")
    status = vllm.status(found)
    if status == vllm.UNSTEADY:
        click.echo(
            f"the machine was too unsteady to say: its speed changed by {found.drift:.0%} between plays of a load, or figures "
            "of one engine differ among themselves by more than they miss by",
            err=True,
        )
    context.exit(status)


if __name__ == "__main__":
    main()

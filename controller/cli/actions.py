"""`penstock scale`, `penstock drain`, `penstock explain`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from controller.cli import target

if TYPE_CHECKING:
    from controller import agents
    from controller.local import client


@click.command()
@click.argument("deployment")
@click.argument("replicas", type=click.IntRange(0, 10_000))
@click.option("--role", default="unified", show_default=True)
@target.options
def scale(deployment: str, replicas: int, role: str, controller: client.Controller) -> None:
    """Set the number of workers of DEPLOYMENT to REPLICAS."""
    from penstock.api.proto import control_pb2

    request = control_pb2.ScaleRequest(deployment=deployment, role=role, replicas=replicas)
    answer = target.ask(controller, "Scale", request)
    click.echo(f"{deployment}/{role}: {answer.previous} to {answer.replicas} workers")


@click.command()
@click.argument("worker")
@click.option("--replace", is_flag=True, help="Start another in its place; on Kubernetes the operator always does.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0, 86_400), help="Longest time for open streams, s (Kubernetes)."
)
@click.option("--agent", help="host:port of the worker's own agent, to ask it without a controller.")
@target.options_or_agent
def drain(
    worker: str,
    replace: bool,
    timeout_s: float | None,
    controller: client.Controller | None,
    agent: agents.Agent | None,
) -> None:
    """Take WORKER out of routing, let it finish what it has, stop it."""
    if agent is not None:
        found = target.run(agent.drain(worker, timeout_s))
        click.echo(f"{worker}: {found.state}, {found.in_flight if found.HasField('in_flight') else '?'} in flight")
        return
    from penstock.api.proto import control_pb2

    assert controller is not None
    request = control_pb2.DrainRequest(worker=worker, replace=replace, timeout_s=timeout_s)
    answer = target.ask(controller, "Drain", request)
    click.echo(f"{worker}: {answer.state}")


@click.command()
@click.argument("request_id")
@click.option("--json", "as_json", is_flag=True, help="The decision as it was recorded.")
@target.options
def explain(request_id: str, as_json: bool, controller: client.Controller) -> None:
    """Say why the request with REQUEST_ID (header x-request-id of its answer) went where it went."""
    from penstock.api.proto import control_pb2

    answer = target.ask(controller, "Explain", control_pb2.ExplainRequest(request_id=request_id))
    decision = json.loads(answer.decision_json)
    if as_json:
        click.echo(json.dumps({"gateway": answer.gateway, "decision": decision}, indent=2))
        return
    click.echo(f"gateway {answer.gateway}")
    _print(decision)


def _print(decision: dict[str, object]) -> None:
    """Plain fields first, then each list of records as a table."""
    from controller.cli import output

    tables = {}
    for key, value in decision.items():
        if _is_records(value):
            assert isinstance(value, list)
            tables[key] = value
        else:
            click.echo(f"{key}: {json.dumps(value) if isinstance(value, (dict, list)) else value}")
    for key, rows in tables.items():
        if any(_is_records(value) for row in rows for value in row.values()):
            # Records that hold records of their own: one after the other.
            for row in rows:
                click.echo()
                _print(row)
            continue
        flat = [_flat(row) for row in rows]
        columns = list(dict.fromkeys(name for row in flat for name in row))
        output.table([[row.get(name) for name in columns] for row in flat], columns, title=key)


def _is_records(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _flat(row: dict[str, object]) -> dict[str, object]:
    out: dict[str, object] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            out.update(value)
        else:
            out[key] = value
    return out

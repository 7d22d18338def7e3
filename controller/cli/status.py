"""`penstock status`."""

from __future__ import annotations

import click

from controller.cli import target


@click.command()
@target.options
@click.option("--json", "as_json", is_flag=True, help="For machines; null is unknown.")
def status(address: str | None, port: int | None, as_json: bool) -> None:
    """Show gateways, workers and what is degraded.

    Exit status: 0 healthy, 1 degraded (with the reasons), 3 where no controller is reached.
    """
    from controller.cli import output, view
    from penstock.api.proto import control_pb2

    fleet = target.ask(target.find(address, port), "GetFleet", control_pb2.GetFleetRequest())
    found = view.problems(fleet)
    if as_json:
        output.emit_json(view.as_json(fleet))
    else:
        click.echo(view.headline(fleet))
        for columns, rows in (view.gateway_rows(fleet), view.worker_rows(fleet)):
            if rows:
                click.echo()
                output.table(rows, columns)
        click.echo("\n" + ("degraded:\n  " + "\n  ".join(found) if found else "healthy"))
    raise SystemExit(1 if found else 0)

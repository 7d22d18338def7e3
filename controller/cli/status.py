"""`penstock status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from controller.cli import target

if TYPE_CHECKING:
    from controller.local import client


@click.command()
@target.options
@click.option("--json", "as_json", is_flag=True, help="For machines; null is unknown.")
def status(controller: client.Controller, as_json: bool) -> None:
    """Show gateways, workers and what is degraded.

    Exit status: 0 healthy, 1 degraded (with the reasons), 3 where no controller is reached.
    """
    from controller.cli import output, view
    from penstock.api.proto import control_pb2

    fleet = target.ask(controller, "GetFleet", control_pb2.GetFleetRequest())
    if as_json:
        output.emit_json(view.as_json(fleet))
    else:
        view.show(fleet)
    raise SystemExit(1 if view.problems(fleet) else 0)

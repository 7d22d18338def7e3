"""Which controller a command speaks to, and how long to wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import click

from penstock.runtime import errors

UNREACHABLE = 3
F = TypeVar("F", bound=Callable[..., Any])


def options(function: F) -> F:
    """The two options by which a command finds its controller."""
    port = click.option("--port", type=int, help="Client port of the fleet, where several run here.")
    address = click.option(
        "--controller", "address", envvar="PENSTOCK_CONTROLLER", help="host:port of a controller's gRPC API."
    )
    return address(port(function))


def find(address: str | None, port: int | None) -> str:
    """The address; ends the command with status 3 where there is no fleet, or several to choose from."""
    from controller.local import state

    if address:
        return address
    fleets = state.fleets()
    if port is not None:
        fleets = [fleet for fleet in fleets if fleet.port == port]
    if len(fleets) == 1:
        return fleets[0].controller
    if not fleets:
        where = f" on port {port}" if port is not None else ""
        click.echo(
            f"penstock: no fleet of yours runs here{where}; start one with `penstock up`, or give --controller",
            err=True,
        )
    else:
        listed = ", ".join(str(fleet.port) for fleet in fleets)
        click.echo(f"penstock: several fleets run here, on ports {listed}; choose one with --port", err=True)
    raise SystemExit(UNREACHABLE)


def ask(address: str, method: str, request: Any, timeout_s: float = 5.0) -> Any:
    """One call; ends the command with status 3 where the controller is not reached, 1 where it refuses."""
    from controller.local import client

    try:
        return asyncio.run(client.call(address, method, request, timeout_s=timeout_s))
    except errors.PenstockError as exc:
        click.echo(f"penstock: {exc}", err=True)
        raise SystemExit(UNREACHABLE if exc.retryable else 1) from None

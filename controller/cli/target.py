"""Which controller a command speaks to, and how long to wait for it."""

from __future__ import annotations

import asyncio
import functools
import pathlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from penstock.runtime import errors

if TYPE_CHECKING:
    from controller.local import client
    from penstock.runtime import grpcs

UNREACHABLE = 3

_PATH = click.Path(path_type=pathlib.Path)
_OPTIONS = (
    click.option("--controller", "address", envvar="PENSTOCK_CONTROLLER", help="host:port of a controller's gRPC API."),
    click.option("--port", type=int, help="Client port of the fleet, where several run here."),
    click.option("--tls-ca", type=_PATH, envvar="PENSTOCK_TLS_CA", help="CA (PEM) of the controller; speaks TLS."),
    click.option("--tls-cert", type=_PATH, envvar="PENSTOCK_TLS_CERT", help="Our own certificate (PEM), if asked for."),
    click.option("--tls-key", type=_PATH, envvar="PENSTOCK_TLS_KEY", help="Its private key (PEM)."),
)


def options(function: Callable[..., None]) -> Callable[..., None]:
    """Options by which a command finds its controller, which it gets as `controller`."""

    @functools.wraps(function)
    def found(*args: Any, address: str | None, port: int | None, **kwargs: Any) -> None:
        from controller.local import client

        given = {name: kwargs.pop(name) for name in ("tls_cert", "tls_key", "tls_ca")}
        # A fleet of this machine, found by its file, speaks without TLS on loopback.
        tls = _tls(**given) if address else None
        function(*args, controller=client.Controller(_find(address, port), tls), **kwargs)

    for option in reversed(_OPTIONS):
        found = option(found)
    return found


def options_or_agent(function: Callable[..., None]) -> Callable[..., None]:
    """As `options`, or by `--agent` the agent of one worker: the command gets `controller` and `agent`, one None."""
    through_controller = options(lambda *args, **kwargs: function(*args, agent=None, **kwargs))

    @functools.wraps(function)
    def found(*args: Any, agent: str | None, **kwargs: Any) -> None:
        from controller import agents

        if agent is None:
            through_controller(*args, **kwargs)
            return
        tls = _tls(**{name: kwargs.pop(name) for name in ("tls_cert", "tls_key", "tls_ca")})
        if kwargs.pop("address") or kwargs.pop("port"):
            raise click.UsageError("--agent asks a worker itself, without --controller or --port")
        if tls is None or tls.cert is None or tls.ca is None:
            raise click.UsageError("--agent needs --tls-ca, --tls-cert and --tls-key: agents are never open")
        function(*args, controller=None, agent=agents.Agent(agent, tls), **kwargs)

    for option in reversed(_OPTIONS):
        found = option(found)
    return found


def _tls(tls_cert: pathlib.Path | None, tls_key: pathlib.Path | None, tls_ca: pathlib.Path | None) -> grpcs.Tls | None:
    from penstock.runtime import grpcs

    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    return grpcs.Tls(tls_cert, tls_key, tls_ca) if tls_ca or tls_cert else None


def _find(address: str | None, port: int | None) -> str:
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


def ask(controller: client.Controller, method: str, request: Any, timeout_s: float = 5.0) -> Any:
    """One call; ends the command with status 3 where the controller is not reached, 1 where it refuses."""
    return run(controller.call(method, request, timeout_s=timeout_s))


def run(call: Coroutine[Any, Any, Any]) -> Any:
    """What a call to a controller or an agent gives; ends the command as `ask` does."""
    try:
        return asyncio.run(call)
    except errors.PenstockError as exc:
        click.echo(f"penstock: {exc}", err=True)
        raise SystemExit(UNREACHABLE if exc.retryable else 1) from None

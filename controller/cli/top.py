"""`penstock top`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from controller.cli import target
from penstock.runtime import errors

if TYPE_CHECKING:
    from controller.local import client


@click.command()
@target.options
@click.option("--every", "every_s", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Seconds.")
@click.option("--count", type=click.IntRange(1), help="End after so many looks.")
def top(controller: client.Controller, every_s: float, count: int | None) -> None:
    """Show the fleet live; Ctrl-C ends it. Without a terminal it prints plain text, once per look."""
    from controller.cli import output

    try:
        asyncio.run((_live if output.is_terminal() else _plain)(controller, every_s, count))
    except KeyboardInterrupt:
        raise SystemExit(0) from None
    except errors.SettingsError as exc:
        raise click.ClickException(str(exc)) from exc


async def _plain(controller: client.Controller, every_s: float, count: int | None) -> None:
    from controller.cli import view

    looks = 0
    while True:
        fleet = await controller.get_fleet()
        if fleet is None:
            click.echo(_silent(controller))
        else:
            view.show(fleet)
        looks += 1
        if looks == count:
            return
        click.echo()
        await asyncio.sleep(every_s)


async def _live(controller: client.Controller, every_s: float, count: int | None) -> None:
    import rich.console
    import rich.live

    console = rich.console.Console()
    looks = 0
    with rich.live.Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_draw(controller, await controller.get_fleet(), console.width), refresh=True)
            looks += 1
            if looks == count:
                return
            await asyncio.sleep(every_s)


def _silent(controller: client.Controller) -> str:
    return f"no answer from the controller at {controller.address}"


def _draw(controller: client.Controller, fleet: Any, width: int) -> Any:
    import rich.console
    import rich.text

    from controller.cli import output, view

    if fleet is None:
        return rich.text.Text(_silent(controller))
    parts: list[Any] = [rich.text.Text(view.headline(fleet))]
    for columns, rows in (view.gateway_rows(fleet), view.worker_rows(fleet)):
        parts.append(output.drawn(rows, columns, width, drop=view.DROP))
    parts.append(rich.text.Text(view.health(fleet)))
    return rich.console.Group(*parts)

"""`penstock top`."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from controller.cli import target


@click.command()
@target.options
@click.option("--every", "every_s", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Seconds.")
@click.option("--count", type=click.IntRange(1), help="End after so many looks.")
def top(address: str | None, port: int | None, every_s: float, count: int | None) -> None:
    """Show the fleet live; Ctrl-C ends it. Without a terminal it prints one block per look."""
    found = target.find(address, port)
    try:
        asyncio.run(_run(found, every_s, count))
    except KeyboardInterrupt:
        raise SystemExit(0) from None


async def _run(address: str, every_s: float, count: int | None) -> None:
    import rich.console
    import rich.live

    from controller.local import client

    console = rich.console.Console()
    looks = 0
    with rich.live.Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while count is None or looks < count:
            drawn = _draw(address, await client.get_fleet(address))
            if console.is_terminal:
                live.update(drawn, refresh=True)
            else:
                console.print(drawn)
            looks += 1
            if count is None or looks < count:
                await asyncio.sleep(every_s)


def _draw(address: str, fleet: Any) -> Any:
    import rich.console
    import rich.table

    from controller.cli import view

    if fleet is None:
        return f"no answer from the controller at {address}"
    parts: list[Any] = [view.headline(fleet)]
    for columns, rows in (view.gateway_rows(fleet), view.worker_rows(fleet)):
        table = rich.table.Table(*columns)
        for row in rows:
            table.add_row(*(str(cell) for cell in row))
        parts.append(table)
    found = view.problems(fleet)
    parts.append("degraded: " + "; ".join(found) if found else "healthy")
    return rich.console.Group(*parts)

"""`penstock doctor`."""

from __future__ import annotations

import asyncio
import os
import pathlib
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from controller.doctor import sight
    from operators import access

UNREACHABLE = 3
_MARKS = {"ok": "ok", "warning": "WARN", "error": "ERROR", "unknown": "?"}


@click.command()
@click.option("--namespace", "-n", help="Namespace of the release; default: the kubeconfig's.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=pathlib.Path),
    help="Default: $KUBECONFIG, ~/.kube/config, or in a Pod its ServiceAccount.",
)
@click.option("--context", help="Context of the kubeconfig; default: the current one.")
@click.option("--all", "show_all", is_flag=True, help="Also what is well.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def doctor(
    namespace: str | None, kubeconfig: pathlib.Path | None, context: str | None, show_all: bool, as_json: bool
) -> None:
    """Say what a cluster lacks for serving, and the command that mends it.

    Exit status: 0 nothing keeps it from serving, 1 something does, 2 wrong use, 3 the cluster is not reached.
    """
    from controller.cli import output
    from controller.doctor import checks
    from penstock.runtime import errors

    try:
        found = checks.run(asyncio.run(_look(_access(kubeconfig, context), namespace)))
    except errors.SettingsError as exc:
        click.echo(f"penstock: {exc}", err=True)
        raise SystemExit(2) from None
    except errors.PenstockError as exc:
        click.echo(f"penstock: {exc}", err=True)
        raise SystemExit(UNREACHABLE) from None
    wrong = [each for each in found if each.level == "error"]
    if as_json:
        rows = [{"check": e.check, "level": str(e.level), "message": e.message, "mend": e.mend} for e in found]
        output.emit_json({"serving": not wrong, "findings": rows})
    else:
        _print(found, show_all)
    raise SystemExit(1 if wrong else 0)


def _access(kubeconfig: pathlib.Path | None, context: str | None) -> access.Access:
    from operators import access

    path = kubeconfig or access.kubeconfig_path(os.environ)
    if kubeconfig is None and not path.exists() and "KUBERNETES_SERVICE_HOST" in os.environ:
        return access.in_cluster(os.environ)
    return access.from_kubeconfig(path, context)


async def _look(found: access.Access, namespace: str | None) -> sight.Sight:
    from controller.doctor import look
    from penstock.runtime import clock as clocks

    reader = look.Reader(found)
    try:
        return await look.Looker(reader, clocks.SystemClock(), namespace or found.namespace).look()
    finally:
        await reader.close()


def _print(found: list[sight.Finding], show_all: bool) -> None:
    """What is not well, each with its command; then a line with the numbers."""
    for each in found:
        if each.level == "ok" and not show_all:
            continue
        click.echo(f"{_MARKS[each.level]:5}  {each.check}: {each.message}")
        if each.mend and each.level != "ok":
            # On lines of their own: not every shell takes what follows a # for a comment.
            command, _, prose = each.mend.partition("  # ")
            click.echo(f"       -> {command}")
            if prose:
                click.echo(f"          # {prose}")
    counts = {level: sum(each.level == level for each in found) for level in _MARKS}
    said = [f"{counts['ok']} checks are well", f"{counts['error']} errors", f"{counts['warning']} warnings"]
    if counts["unknown"]:
        said.append(f"{counts['unknown']} could not be seen")
    click.echo(", ".join(said))

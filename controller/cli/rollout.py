"""`penstock rollout status|history|undo|restart`."""

from __future__ import annotations

import asyncio
import os
import pathlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from operators import history

UNREACHABLE = 3
GOING_ON = 4
_POLL_S = 1.0
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def _options(command: F) -> F:
    """Which deployment of which cluster."""
    for option in (
        click.option("--context", help="Context of the kubeconfig; default: the current one."),
        click.option(
            "--kubeconfig",
            type=click.Path(path_type=pathlib.Path),
            help="Default: $KUBECONFIG, ~/.kube/config, or in a Pod its ServiceAccount.",
        ),
        click.option("--namespace", "-n", help="Namespace of the deployment; default: the kubeconfig's."),
        click.argument("name"),
    ):
        command = option(command)
    return command


@click.group()
def rollout() -> None:
    """See how a ModelDeployment's change reaches its workers, and take it back."""


@rollout.command()
@_options
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=0.0, help="Wait so long for its end, s.")
def status(
    name: str, namespace: str | None, kubeconfig: pathlib.Path | None, context: str | None, timeout_s: float
) -> None:
    """Say where the roll-out of NAME is. Exit status: 0 complete, 1 failed, 4 still going on."""
    code = _run(kubeconfig, context, namespace, lambda deployments: _status(deployments, name, timeout_s))
    raise SystemExit(code)


async def _status(deployments: history.History, name: str, timeout_s: float) -> int:
    said, left_s = "", timeout_s
    while True:
        found = await deployments.status(name)
        if found.text != said:
            click.echo(found.text)
            said = found.text
        if found.code != GOING_ON or left_s <= 0:
            return found.code
        await asyncio.sleep(_POLL_S)
        left_s -= _POLL_S


@rollout.command(name="history")
@_options
def show_history(name: str, namespace: str | None, kubeconfig: pathlib.Path | None, context: str | None) -> None:
    """List the revisions of NAME that are kept, the newest last."""
    from controller.cli import output

    found = _run(kubeconfig, context, namespace, lambda deployments: deployments.revisions(name))
    rows = [[str(each.number), each.revision, each.made, each.image, ", ".join(each.marks)] for each in found]
    output.table(rows, ["number", "revision", "made", "image", "is"])


@rollout.command()
@_options
@click.option("--to", "to", default="", help="Revision or number; default: the one before.")
def undo(name: str, namespace: str | None, kubeconfig: pathlib.Path | None, context: str | None, to: str) -> None:
    """Write an earlier revision of NAME into its specification; the counts stay."""
    revision = _run(kubeconfig, context, namespace, lambda deployments: deployments.undo(name, to))
    click.echo(f"{name}: back to revision {revision}")


@rollout.command()
@_options
def restart(name: str, namespace: str | None, kubeconfig: pathlib.Path | None, context: str | None) -> None:
    """Replace all workers of NAME by a roll-out of the same specification."""
    _run(kubeconfig, context, namespace, lambda deployments: deployments.restart(name))
    click.echo(f"{name}: its workers are replaced")


def _run(
    kubeconfig: pathlib.Path | None,
    context: str | None,
    namespace: str | None,
    work: Callable[[history.History], Awaitable[T]],
) -> T:
    """Does it; wrong use ends with 2, a cluster that is not reached with 3."""
    from operators import access
    from operators import history as histories
    from penstock.runtime import clock as clocks
    from penstock.runtime import errors

    async def done() -> T:
        path = kubeconfig or access.kubeconfig_path(os.environ)
        if kubeconfig is None and not path.exists() and "KUBERNETES_SERVICE_HOST" in os.environ:
            found = access.in_cluster(os.environ)
        else:
            found = access.from_kubeconfig(path, context)
        deployments = histories.History.of(found, namespace or found.namespace, clocks.SystemClock())
        try:
            return await work(deployments)
        finally:
            await deployments.close()

    try:
        return asyncio.run(done())
    except errors.RetryableError as exc:
        click.echo(f"penstock: {exc}", err=True)
        raise SystemExit(UNREACHABLE) from None
    except errors.PenstockError as exc:
        click.echo(f"penstock: {exc}", err=True)
        raise SystemExit(2) from None

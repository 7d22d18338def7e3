"""`penstock up`."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import sys
import time

import click
import yaml

from penstock.runtime import errors, logs

EXIT_TAKEN = 2


def _settings(_ctx: click.Context, _param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, object]:
    out = {}
    for pair in pairs:
        key, sep, value = pair.partition("=")
        if not sep:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE")
        out[key] = yaml.safe_load(value)
    return out


def _command() -> str:
    """How this shell would call us."""
    own = pathlib.Path(sys.argv[0])
    if shutil.which("penstock") or own.name != "penstock":
        return "penstock"
    return os.path.relpath(own)


@click.command()
@click.option("--model", default="tiny", show_default=True, help="Model name that clients ask for.")
@click.option("--workers", type=click.IntRange(0, 256), default=2, show_default=True)
@click.option("--gateways", type=click.IntRange(0, 64), default=2, show_default=True)
@click.option("--engine", type=click.Choice(["sim", "vllm"]), default="sim", show_default=True)
@click.option("--profile", default="cpu-tiny", show_default=True, help="Performance profile of the engine.")
@click.option("--engine-set", "engine_settings", multiple=True, callback=_settings, metavar="KEY=VALUE",
              help="A setting of the engine; repeat it.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that clients connect to.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--policy", default="default", show_default=True, help="Routing profile of the gateways.")
@click.option("--redis-url", envvar="PENSTOCK_REDIS_URL", help="An existing Redis, instead of an embedded one.")
@click.option("--ray-address", help="An existing Ray cluster, instead of a local one.")
@click.option("--run-dir", type=click.Path(path_type=pathlib.Path), help="Folder for logs and state, kept afterwards.")
@click.option("--namespace", default="default", show_default=True, help="Namespace of the fleet in Redis.")
@click.option("--ready-timeout", "ready_timeout_s", type=float, default=120.0, show_default=True, help="Seconds.")
def up(**kwargs: object) -> None:
    """Start a fleet on this machine and keep it running until Ctrl-C.

    Exit status: 0 after Ctrl-C or SIGTERM, 1 where it could not start, 2 where the port is taken.
    """
    from controller.local import options
    from controller.local import up as local

    logs.configure(logs.LogSettings(level="warning"))
    opts = options.UpOptions(**kwargs)  # type: ignore[arg-type]
    began_s = time.monotonic()

    def tell(line: str) -> None:
        click.echo(f"{time.monotonic() - began_s:6.1f} s  {line}", err=True)

    def ready(fleet: local.Up) -> None:
        tell("ready")
        if opts.gateways:
            shown = "127.0.0.1" if opts.host in ("0.0.0.0", "::") else opts.host
            simulated = " (simulated engines: answers are made-up words)" if opts.engine == "sim" else ""
            click.echo(
                f"\nPenstock answers on http://{shown}:{fleet.port}/v1, model {opts.model!r}{simulated}. Try:\n\n"
                f"  curl http://{shown}:{fleet.port}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
                f'    -d \'{{"model": "{opts.model}", "messages": [{{"role": "user", "content": "Hello"}}]}}\'\n\n'
                f"  {_command()} status{'' if fleet.port == 8080 else f' --port {fleet.port}'}\n\nCtrl-C stops everything."
            )
        sys.stdout.flush()

    try:
        opts.deployment()
        asyncio.run(local.run(opts, tell, ready))
    except local.PortTaken as exc:
        click.echo(f"penstock up: {exc}", err=True)
        raise SystemExit(EXIT_TAKEN) from None
    except (errors.PenstockError, OSError, ValueError) as exc:
        click.echo(f"penstock up: {logs.mask_urls(str(exc))}", err=True)
        raise SystemExit(1) from None
    tell("stopped")

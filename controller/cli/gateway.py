"""`penstock gateway`: one gateway alone, in front of any OpenAI-compatible servers."""

from __future__ import annotations

import os
import pathlib

import click

from penstock.runtime import errors


@click.command()
@click.option("--endpoint", "endpoints", multiple=True, metavar="URL", help="An OpenAI-compatible server; repeat it.")
@click.option("--model", help="Model that all endpoints serve; without it each is asked.")
@click.option("--policy", help="Routing profile; a wrong name lists the right ones.")
@click.option("--host", help="Address to listen on [127.0.0.1].")
@click.option("--port", type=int, help="Port to listen on [8080]; 0 takes a free one.")
@click.option("--admin-port", type=int, help="Port for metrics and debug; 0 takes a free one.")
@click.option("--api-keys-file", type=click.Path(path_type=pathlib.Path), help="Lines of `tenant: sha256-of-key`.")
@click.option("--tls-cert", type=click.Path(path_type=pathlib.Path), help="Certificate chain (PEM).")
@click.option("--tls-key", type=click.Path(path_type=pathlib.Path), help="Private key (PEM).")
@click.option("--config", "file", type=click.Path(path_type=pathlib.Path), help="Settings file (YAML).")
def gateway(file: pathlib.Path | None, endpoints: tuple[str, ...], **flags: object) -> None:
    """Runs one gateway in front of OpenAI-compatible servers: no Redis, no Ray, no controller."""
    from penstock.runtime import compiled
    from penstock.runtime import settings as base

    compiled.activate()
    from router.server import main
    from router.server import settings as gateway_settings

    try:
        settings = base.load(
            gateway_settings.GatewaySettings,
            "gateway",
            file=file,
            env=os.environ,
            flags={"endpoints": endpoints or None, **flags},
        )
        raise SystemExit(main.run(settings))
    except errors.SettingsError as exc:
        raise click.UsageError(str(exc)) from exc
    except errors.PenstockError as exc:
        raise click.ClickException(str(exc)) from exc

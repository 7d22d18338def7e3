"""`python -m workers.sim --model NAME --port P`: one simulated worker in the foreground."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

import pydantic
import uvloop

from workers.sim import server, settings

_DRAIN_S = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; 0 after a clean stop, 2 for wrong settings, 1 if it cannot start."""
    try:
        config = settings.SimSettings.model_validate(_flags(argv))
    except pydantic.ValidationError as exc:
        for error in exc.errors():
            print(f"{'.'.join(map(str, error['loc'])) or 'settings'}: {error['msg']}", file=sys.stderr)
        return 2
    try:
        uvloop.run(_serve(config))
    except OSError as exc:
        print(f"cannot serve on {config.host}:{config.port}: {exc.strerror or exc}", file=sys.stderr)
        return 1
    return 0


async def _serve(config: settings.SimSettings) -> None:
    worker = server.SimServer(config)
    port = await worker.start()
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    print(
        f"simulated worker for {config.model} on http://{config.host}:{port} (profile {config.profile})",
        flush=True,
    )
    await stopping.wait()
    await worker.stop(_DRAIN_S)


def _flags(argv: Sequence[str] | None) -> dict[str, str]:
    """Only the flags that were given, so that the defaults are those of the settings."""
    parser = argparse.ArgumentParser(prog="python -m workers.sim", description=__doc__)
    for name, field in settings.SimSettings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        help_text = f"{field.description} (default: {field.default})"
        parser.add_argument(flag, dest=name, default=argparse.SUPPRESS, help=help_text)
    return vars(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

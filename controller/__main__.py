"""`python -m controller`: one controller process, configured by file, environment (PENSTOCK_CONTROLLER_...) and flags."""

from __future__ import annotations

import argparse
import asyncio
import os
import pathlib
import sys

from controller import main
from controller import settings as controller_settings
from penstock.runtime import errors, logs
from penstock.runtime import settings as base


def run(argv: list[str]) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m controller")
    parser.add_argument("--config", type=pathlib.Path)
    parser.add_argument("--id")
    parser.add_argument("--grpc-host")
    parser.add_argument("--grpc-port", type=int)
    parser.add_argument("--namespace")
    parser.add_argument("--ray-address")
    parser.add_argument("--host", help="Where workers run: ray, process")
    flags = vars(parser.parse_args(argv))
    file = flags.pop("config")
    try:
        settings = base.load(
            controller_settings.ControllerSettings, "controller", file=file, env=os.environ, flags=flags
        )
        logs.configure(settings.log)
        return asyncio.run(main.serve(settings))
    except errors.PenstockError as exc:
        print(f"controller: {logs.mask_urls(str(exc))}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(run(sys.argv[1:]))

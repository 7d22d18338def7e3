"""`python -m controller`: one controller process, configured by file, environment (PENSTOCK_CONTROLLER_...) and flags."""

from __future__ import annotations

import argparse
import asyncio
import sys

from controller import main
from controller import settings as controller_settings
from penstock.runtime import entry, logs


def serve(settings: controller_settings.ControllerSettings) -> int:
    """Runs until it is told to stop; the exit status."""
    logs.configure(settings.log)
    return asyncio.run(main.serve(settings))


def flags() -> argparse.ArgumentParser:
    """Settings that are also flags."""
    parser = argparse.ArgumentParser(prog="python -m controller")
    parser.add_argument("--id")
    parser.add_argument("--grpc-host")
    parser.add_argument("--grpc-port", type=int)
    parser.add_argument("--namespace")
    parser.add_argument("--ray-address")
    parser.add_argument("--host", help="Where workers run: ray, process, none")
    return parser


if __name__ == "__main__":
    raise SystemExit(entry.run(controller_settings.ControllerSettings, "controller", flags(), sys.argv[1:], serve))

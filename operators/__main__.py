"""`python -m operators`: one operator process, configured by file, environment (PENSTOCK_OPERATOR_...) and flags."""

from __future__ import annotations

import argparse
import asyncio
import pathlib
import sys

from operators import main
from operators import settings as operator_settings
from penstock.runtime import entry, logs


def serve(settings: operator_settings.OperatorSettings) -> int:
    """Runs until it is told to stop; the exit status."""
    logs.configure(settings.log)
    return asyncio.run(main.serve(settings))


def flags() -> argparse.ArgumentParser:
    """Settings that are also flags."""
    parser = argparse.ArgumentParser(prog="python -m operators")
    parser.add_argument("--id")
    parser.add_argument("--kubeconfig", type=pathlib.Path)
    parser.add_argument("--worker-image")
    parser.add_argument("--metrics-host")
    parser.add_argument("--metrics-port", type=int)
    return parser


if __name__ == "__main__":
    raise SystemExit(entry.run(operator_settings.OperatorSettings, "operator", flags(), sys.argv[1:], serve))

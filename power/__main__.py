"""`python -m power`: the agent of one node, configured by file, environment (PENSTOCK_NODE_...) and flags."""

from __future__ import annotations

import argparse
import asyncio
import sys

from penstock.runtime import entry, logs
from power import main
from power import settings as node_settings


def serve(settings: node_settings.NodeSettings) -> int:
    """Runs until it is told to stop; the exit status."""
    logs.configure(settings.log)
    return asyncio.run(main.serve(settings))


def flags() -> argparse.ArgumentParser:
    """Settings that are also flags."""
    parser = argparse.ArgumentParser(prog="python -m power")
    parser.add_argument("--id")
    parser.add_argument("--metrics-host")
    parser.add_argument("--metrics-port", type=int)
    return parser


if __name__ == "__main__":
    raise SystemExit(entry.run(node_settings.NodeSettings, "node", flags(), sys.argv[1:], serve))

"""`python -m router.server`: one gateway process, configured by file, environment (PENSTOCK_GATEWAY_...) and flags."""

from __future__ import annotations

import argparse
import os
import sys

from penstock.runtime import compiled, entry
from router.server import main
from router.server import settings as gateway_settings


def run_compiled() -> None:
    """Becomes the same process on the compiled hot path, where there is one that fits."""
    found = compiled.folder()
    if found is not None:
        path = os.environ.get("PYTHONPATH")
        environment = {
            **os.environ,
            "PYTHONPATH": str(found) + (os.pathsep + path if path else ""),
            # Or the working directory, with the plain sources, would come first.
            "PYTHONSAFEPATH": "1",
            compiled.SWITCH: "0",
        }
        os.execve(sys.executable, [sys.executable, "-m", "router.server", *sys.argv[1:]], environment)


def flags() -> argparse.ArgumentParser:
    """Settings that are also flags."""
    parser = argparse.ArgumentParser(prog="python -m router.server")
    parser.add_argument("--id")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--admin-host")
    parser.add_argument("--admin-port", type=int)
    parser.add_argument("--policy")
    parser.add_argument("--model")
    parser.add_argument("--namespace")
    parser.add_argument("--endpoint", action="append", dest="endpoints")
    return parser


if __name__ == "__main__":
    run_compiled()
    raise SystemExit(entry.run(gateway_settings.GatewaySettings, "gateway", flags(), sys.argv[1:], main.run))

"""`python -m router.server`: one gateway process, configured by environment and flags."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

from penstock.runtime import compiled, errors
from penstock.runtime import settings as base
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


def parse(argv: list[str]) -> gateway_settings.GatewaySettings:
    """Settings from a file, the environment (PENSTOCK_GATEWAY_...) and flags."""
    parser = argparse.ArgumentParser(prog="python -m router.server")
    parser.add_argument("--config", type=pathlib.Path)
    parser.add_argument("--id")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--admin-host")
    parser.add_argument("--admin-port", type=int)
    parser.add_argument("--policy")
    parser.add_argument("--model")
    parser.add_argument("--namespace")
    parser.add_argument("--endpoint", action="append", dest="endpoints")
    flags = vars(parser.parse_args(argv))
    file = flags.pop("config")
    return base.load(gateway_settings.GatewaySettings, "gateway", file=file, env=os.environ, flags=flags)


if __name__ == "__main__":
    run_compiled()
    try:
        raise SystemExit(main.run(parse(sys.argv[1:])))
    except errors.PenstockError as exc:
        print(f"gateway: {exc}", file=sys.stderr)
        raise SystemExit(2) from None

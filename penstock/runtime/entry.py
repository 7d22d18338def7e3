"""The frame of a component's `python -m`: settings from file, environment and flags; errors as one line."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from penstock.runtime import errors, logs, settings

S = TypeVar("S", bound=settings.Settings)


def run(
    cls: type[S],
    component: str,
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    serve: Callable[[S], int],
) -> int:
    """The exit status: that of `serve`, 2 where the settings are wrong or it cannot start.

    The parser's destinations are fields of `cls`; `--config FILE` is added to it. The environment's names begin with
    `PENSTOCK_` and the component.
    """
    parser.add_argument("--config", type=pathlib.Path, help="Settings file (YAML)")
    flags = vars(parser.parse_args(argv))
    file = flags.pop("config")
    try:
        return serve(settings.load(cls, component, file=file, env=os.environ, flags=flags))
    except errors.PenstockError as exc:
        print(f"{component}: {logs.mask_urls(str(exc))}", file=sys.stderr)
        return 2

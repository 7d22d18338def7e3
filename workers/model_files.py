"""A downloaded model's folder on a shared volume: which one is in use, so that nobody takes it away to make room."""

from __future__ import annotations

import fcntl
import pathlib
import shutil
from typing import IO

# Touched at each start; whoever uses the folder holds a shared lock on it, as long as it lives and wherever it runs.
USED = ".used"


def hold(folder: pathlib.Path) -> IO[bytes] | None:
    """Keeps the folder from being removed until the file that is given is closed; None where there is none to keep."""
    try:
        held = open(folder / USED, "rb")  # noqa: SIM115  closed by whoever has it
        fcntl.flock(held, fcntl.LOCK_SH)
    except OSError:
        return None
    return held


def remove(folder: pathlib.Path) -> bool:
    """Removes the folder; False where somebody uses it."""
    try:
        with open(folder / USED, "rb") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True

"""A downloaded model's folder on a shared volume: which one is in use, so that nobody takes it away to make room."""

from __future__ import annotations

import fcntl
import os
import pathlib
import shutil
from typing import IO

# Touched at each download; whoever uses the folder holds a shared lock on it, as long as it lives and wherever it runs.
USED = ".used"


def hold(folder: pathlib.Path) -> IO[bytes] | None:
    """Keeps the folder from being removed until the file that is given is closed; None where it is gone or going."""
    try:
        held = open(folder / USED, "rb")  # noqa: SIM115  closed by whoever has it
    except OSError:
        return None
    try:
        # Who has the exclusive lock is removing the folder.
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        there = os.fstat(held.fileno()).st_nlink > 0
    except OSError:
        there = False
    if not there:
        held.close()
        return None
    return held


def remove(folder: pathlib.Path) -> bool:
    """Removes the folder; False where somebody uses it, or where that cannot be found out."""
    try:
        # Over NFS an exclusive lock needs a file that may be written.
        with open(folder / USED, "r+b") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True

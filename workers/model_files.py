"""A downloaded model's folder on a shared volume: whole or not there, and not taken away to make room while it is in use."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import IO

# Touched at each download; whoever uses the folder holds a shared lock on it, as long as it lives and wherever it runs.
USED = ".used"
# What is fetched or removed lies beside, under the folder's name between a dot and a dash.
_PARTIAL = re.compile(r"\.([0-9a-f]{16})-[^-]+")
# A folder in which nothing has changed for so long is nobody's any more, also where locks do not reach other machines.
_LEFT_S = 900.0


def beside(folder: pathlib.Path) -> str:
    """How names of folders begin that hold a part of this one."""
    return f".{folder.name}-"


@contextlib.contextmanager
def alone(folder: pathlib.Path, *, wait: bool) -> Iterator[bool]:
    """Nobody else fetches this folder, looks for it or removes it meanwhile; False where somebody may, without `wait`."""
    with contextlib.ExitStack() as held:
        try:
            lock = held.enter_context(open(folder.parent / f".{folder.name}.lock", "w"))
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            if wait:
                raise
            yield False
        else:
            yield True


def sweep(shared: pathlib.Path, now_s: float) -> None:
    """Removes parts of folders that whoever made them has left behind."""
    for each in shared.iterdir():
        match = _PARTIAL.fullmatch(each.name)
        if match is None or not each.is_dir() or not _is_left(each, now_s):
            continue
        with alone(shared / match[1], wait=False) as got:
            if got:
                shutil.rmtree(each, ignore_errors=True)


def _is_left(part: pathlib.Path, now_s: float) -> bool:
    if part.name.endswith("-gone"):
        return True
    try:
        newest_s = max(each.stat().st_mtime for each in (part, *part.rglob("*")))
    except OSError:
        return False
    return now_s - newest_s > _LEFT_S


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
    """Removes the folder, as a whole or not at all; False where somebody uses it, or where that cannot be found out."""
    gone = folder.with_name(f"{beside(folder)}gone")
    try:
        # Over NFS an exclusive lock needs a file that may be written.
        with open(folder / USED, "r+b") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            # Who has opened it before and gets its lock next sees that it is gone.
            (gone / USED).unlink()
            shutil.rmtree(gone, ignore_errors=True)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True

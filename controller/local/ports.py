"""Who has a port, from /proc: for a message that helps."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket

_LISTEN = "0A"


def holder(port: int) -> str:
    """`pid 12 (nginx)`, or words for that it cannot be told."""
    inodes = _listening_inodes(port)
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for link in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(link)
                    if target.startswith("socket:[") and target[8:-1] in inodes:
                        return f"pid {folder.name} ({_name(folder)})"
    return "another process (of another user, or outside this machine's view)"


def _name(folder: pathlib.Path) -> str:
    """What a process is called: of an interpreter the script or module that it runs."""
    words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    plain = [pathlib.PurePath(word).name for word in words if word and not word.startswith("-")]
    if len(plain) > 1 and plain[0].startswith("python") and "-c" not in words:
        return f"{plain[0]} {plain[1]}"
    return plain[0] if plain else (folder / "comm").read_text().strip()


def reserve(host: str, port: int) -> socket.socket | None:
    """A bound socket that keeps the port for processes of this user that share it (SO_REUSEPORT); None: it is taken.

    It does not listen, so no connection goes to it. Raises OSError where the address is not ours or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without SO_REUSEPORT: somebody who shares a port of his own is somebody else too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            if exc.errno == 98:
                return None
            raise
        port = probe.getsockname()[1]
        # Bound is not enough to find a listener on the same port and another address of ours.
        if port and _listening_inodes(port):
            return None
    kept = socket.socket(family, socket.SOCK_STREAM)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        kept.bind((host, port))
    except OSError:
        kept.close()
        return None
    return kept


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in pathlib.Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found

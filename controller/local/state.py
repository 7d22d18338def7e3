"""Where a local fleet says that it runs, so that `penstock status` finds it without flags."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

import pydantic


class FleetState(pydantic.BaseModel):
    """Written by `penstock up`, one file per client port."""

    model_config = pydantic.ConfigDict(extra="ignore")

    pid: int
    port: int
    host: str
    # Empty until the controller answers.
    controller: str
    run_dir: str
    # Whether the folder was made by us and goes with the fleet.
    owned: bool
    # Another folder that goes with the fleet, for Ray's sockets.
    ray_temp: str | None = None


def folder() -> pathlib.Path:
    """This user's folder below the system's temporary one."""
    return pathlib.Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}"


def path(port: int) -> pathlib.Path:
    """The file of the fleet on this port."""
    return folder() / f"{port}.json"


def write(state: FleetState) -> None:
    """Raises PermissionError where the folder belongs to somebody else."""
    folder().mkdir(mode=0o700, exist_ok=True)
    if folder().stat().st_uid != os.getuid():
        raise PermissionError(f"{folder()} belongs to another user")
    partial = path(state.port).with_suffix(".tmp")
    partial.write_text(state.model_dump_json())
    partial.replace(path(state.port))


def read(port: int) -> FleetState | None:
    """None where no fleet of this user says that it runs on the port."""
    try:
        if folder().stat().st_uid != os.getuid():
            return None
        return FleetState.model_validate_json(path(port).read_text())
    except (OSError, ValueError):
        return None


def fleets() -> list[FleetState]:
    """All fleets of this user whose process lives and whose controller has answered."""
    return [state for state in _written() if alive(state.pid) and state.controller]


def remove(port: int) -> None:
    """Removes the file, and the folder where it was the last."""
    path(port).unlink(missing_ok=True)
    try:
        folder().rmdir()
    except OSError:
        pass


def clear_stale() -> None:
    """Removes what fleets of this user left that were killed."""
    for state in _written():
        if alive(state.pid):
            continue
        for left in (state.run_dir if state.owned else None, state.ray_temp):
            if left is not None and pathlib.Path(left).name.startswith("penstock-"):
                shutil.rmtree(left, ignore_errors=True)
        remove(state.port)


def _written() -> list[FleetState]:
    found = [read(int(item.stem)) for item in sorted(folder().glob("*.json")) if item.stem.isdigit()]
    return [state for state in found if state is not None]


def alive(pid: int) -> bool:
    """Whether there is such a process that is not a zombie."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"

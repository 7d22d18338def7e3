"""`python -m workers.download`: brings a model's files to a folder, once for all workers that share it.

What to bring is JSON in PENSTOCK_DOWNLOAD (`Wanted`). Files are fetched beside their place and renamed as a whole, under a
lock, so that what is there is complete; the second worker on a node finds it. Hubs speak the Hugging Face protocol over
HTTPS, object stores S3 (`s3://`, and `gs://` by its interoperable XML API).
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Protocol

import pydantic

from penstock.runtime import clock as clocks
from penstock.runtime import errors, logs
from workers import model_files
from workers.sources import hub, s3

ENV = "PENSTOCK_DOWNLOAD"
_COMPLETE = ".complete"
_SPARED_S = 3600.0
_USED = model_files.USED


class Wanted(pydantic.BaseModel):
    """What to bring, and where to. Credentials come by the environment."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    folder: pathlib.Path = pydantic.Field(description="Folder of the model's files; the one above is shared")
    repo: str | None = pydantic.Field(None, description="Repository of a hub")
    revision: str = pydantic.Field("main", description="Branch, tag or commit in the hub")
    uri: str | None = pydantic.Field(None, description="Bucket and prefix of an object store")
    endpoint: str | None = pydantic.Field(None, description="Address of the hub or store")
    size_limit_bytes: int | None = pydantic.Field(None, description="Others in the shared folder go above this")


class Source(Protocol):
    """Where files come from. Both methods raise `PenstockError`."""

    def files(self) -> Iterator[tuple[str, int]]:
        """Relative path and size in bytes of each file."""

    def fetch(self, name: str, target: pathlib.Path) -> None:
        """Writes one file."""


def source_of(wanted: Wanted) -> Source:
    """The source that is named. Raises `SettingsError`."""
    if wanted.repo is not None:
        return hub.Hub(wanted.repo, wanted.revision, wanted.endpoint, os.environ.get("HF_TOKEN", ""))
    if wanted.uri is not None and wanted.uri.startswith(("s3://", "gs://")):
        return s3.Bucket.of(wanted.uri, wanted.endpoint)
    raise errors.SettingsError(f"{ENV}: neither a repo nor an s3:// or gs:// uri: {wanted.uri!r}")


def bring(wanted: Wanted, source: Source) -> bool:
    """Whether anything had to be fetched. Raises `PenstockError`."""
    shared = wanted.folder.parent
    shared.mkdir(parents=True, exist_ok=True)
    if not os.access(shared, os.W_OK):
        hint = (
            f"on the node: chown {os.getuid()} the folder that model.cache.nodePath names, or give that user the volume"
        )
        raise errors.TerminalError(f"{shared} cannot be written by user {os.getuid()} -> {hint}")
    model_files.sweep(shared, clocks.SystemClock().now_s())
    with model_files.alone(wanted.folder, wait=True):
        if (wanted.folder / _COMPLETE).exists():
            (wanted.folder / _USED).touch()
            return False
        files = list(source.files())
        if not files:
            raise errors.TerminalError(f"nothing to download for {wanted.folder.name}: the source holds no file")
        if wanted.size_limit_bytes is not None:
            make_room(wanted, sum(size for _, size in files))
        _fetch_all(wanted.folder, source, files)
    return True


def _fetch_all(folder: pathlib.Path, source: Source, files: list[tuple[str, int]]) -> None:
    """All files into a folder beside, which then takes the place of this one."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=model_files.beside(folder)) as made:
        part = pathlib.Path(made) / "files"
        for name, _ in files:
            target = part / name
            if part.resolve() not in target.resolve().parents:
                raise errors.TerminalError(f"the source names a file outside of its folder: {name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            source.fetch(name, target)
        (part / _COMPLETE).touch()
        (part / _USED).touch()
        # An engine runs as another user.
        for each in (part, *part.rglob("*")):
            each.chmod(0o755 if each.is_dir() else 0o644)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)


def make_room(wanted: Wanted, needed_bytes: int) -> None:
    """Removes models of the shared folder that nobody uses, the one used longest ago first, until the limit is kept."""
    others = [each for each in wanted.folder.parent.iterdir() if each.is_dir() and (each / _COMPLETE).exists()]
    sizes = {each: sum(file.stat().st_size for file in each.rglob("*") if file.is_file()) for each in others}
    left = sum(sizes.values()) + needed_bytes - (wanted.size_limit_bytes or 0)
    log = logs.get("download")
    used_s = {each: (each / _USED).stat().st_mtime for each in others}
    now_s = clocks.SystemClock().now_s()
    for each in sorted(others, key=used_s.__getitem__):
        if left <= 0:
            return
        with model_files.alone(each, wait=False) as got:
            if not got:
                # Another download has it.
                continue
            try:
                spared = now_s - (each / _USED).stat().st_mtime < _SPARED_S
            except FileNotFoundError:
                # Another one has just removed it.
                left -= sizes[each]
                continue
            if spared:
                # Its engine may still be pulled, and nobody holds it yet.
                continue
            if not model_files.remove(each):
                log.info("model_in_use", model=each.name, bytes=sizes[each])
                continue
        log.info("model_removed", model=each.name, bytes=sizes[each])
        left -= sizes[each]
    if left > 0:
        log.warning("cache_over_limit", bytes=left, reason="what is left is in use, or was brought a short time ago")


def main() -> int:
    """Entry point: 0 when the files are there, 1 where they could not be had, 2 where the settings are wrong."""
    logs.configure(logs.LogSettings())
    # As process 1 of a container it would not end by it, and what is half fetched would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began_s = time.monotonic()
    try:
        wanted = Wanted.model_validate_json(os.environ.get(ENV, "{}"))
        fetched = bring(wanted, source_of(wanted))
    except (pydantic.ValidationError, errors.SettingsError) as exc:
        print(f"download: {exc}", file=sys.stderr)
        return 2
    except (errors.PenstockError, OSError) as exc:
        print(f"download: {logs.mask_urls(str(exc))}", file=sys.stderr)
        return 1
    took_s = round(time.monotonic() - began_s, 1)
    logs.get("download").info("model_there", folder=str(wanted.folder), fetched=fetched, took_s=took_s)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

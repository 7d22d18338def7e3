"""GET with a few tries, into memory or into a file."""

from __future__ import annotations

import pathlib
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Mapping

from penstock.runtime import errors

TIMEOUT_S = 60.0
TRIES = 5
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})


class _NoForeignCredentials(urllib.request.HTTPRedirectHandler):
    """Follows redirects, without the credentials where they lead to another host."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]  # as in the library
        """See the library."""
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and new.host != req.host:
            new.remove_header("Authorization")
        return new


_OPENER = urllib.request.build_opener(_NoForeignCredentials())


def rest(attempt: int) -> None:
    """Waits after a try that failed, which count from 0: 1 s, twice as long each time, 30 s at most."""
    time.sleep(min(30.0, 2.0**attempt))  # noqa: TID251  a process of its own, that only waits


def get(url: str, headers: Mapping[str, str]) -> bytes:
    """A body. Raises `PenstockError`."""
    data: bytes = _tried(url, headers, None)
    return data


def save(url: str, headers: Mapping[str, str], target: pathlib.Path) -> None:
    """A body into a file. Raises `PenstockError`."""
    _tried(url, headers, target)


def _tried(url: str, headers: Mapping[str, str], target: pathlib.Path | None) -> bytes:
    shown = url.partition("?")[0]
    for attempt in range(TRIES):
        try:
            with _OPENER.open(urllib.request.Request(url, headers=dict(headers)), timeout=TIMEOUT_S) as answer:
                if target is None:
                    data: bytes = answer.read()
                    return data
                wanted = int(answer.headers.get("Content-Length") or -1)
                with open(target, "wb") as out:
                    shutil.copyfileobj(answer, out, 2**20)
                    size = out.tell()
                if wanted in (-1, size):
                    return b""
                cause = f"{size} of {wanted} bytes came"
        except urllib.error.HTTPError as exc:
            cause = f"{exc.code} {exc.reason}"
            if exc.code not in _RETRYABLE:
                raise errors.TerminalError(f"{shown}: {cause}") from exc
        except OSError as exc:
            cause = str(exc)
        if attempt + 1 < TRIES:
            rest(attempt)
    raise errors.RetryableError(f"{shown}: {cause}, {TRIES} times")

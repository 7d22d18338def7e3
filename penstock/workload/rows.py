"""Reading text files line by line, with bad rows named and counted instead of ending the run."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import orjson

from penstock.workload import request

MAX_TOKENS = 100_000_000
T = TypeVar("T")


class RowError(ValueError):
    """One row cannot be used; the message is the reason."""


def files(path: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """The files of a trace: `path`, or the folder's files that match `pattern`. Raises `TraceError`."""
    if path.is_dir():
        found = sorted(path.glob(pattern))
        if not found:
            raise request.TraceError(f"{path}: no file named {pattern} in this folder")
        return found
    if not path.exists():
        raise request.TraceError(f"{path}: no such file or folder")
    return [path]


def lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """1-based numbers of the lines that are not blank, and these. Raises `TraceError`."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                stripped = line.strip()
                if stripped:
                    yield number, stripped
    except OSError as exc:
        raise request.TraceError(f"{path}: {exc.strerror or exc}") from exc


def parsed(path: pathlib.Path, parse: Callable[[dict[str, Any], int], T], errors: request.RowErrors) -> Iterator[T]:
    """`parse(object, line)` of each JSON line; a row that raises `RowError` is recorded and left out."""
    for number, line in lines(path):
        try:
            yield parse(json_object(line), number)
        except RowError as exc:
            errors.add(path.name, number, str(exc))


def json_object(line: bytes) -> dict[str, Any]:
    """The JSON object on one line. Raises `RowError`."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise RowError(f"not JSON ({exc})") from exc
    if not isinstance(value, dict):
        raise RowError(f"not a JSON object but {type(value).__name__}")
    return value


def number(row: dict[str, Any], key: str) -> float:
    """A finite number that is not negative. Raises `RowError` naming the key."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"'{key}' is {_shown(value)}, a number is needed")
    if not 0 <= value < float("inf"):
        raise RowError(f"'{key}' is {value}, a number of at least 0 is needed")
    return float(value)


def tokens(row: dict[str, Any], key: str, least: int) -> int:
    """A whole number of tokens, at least `least`. Raises `RowError` naming the key."""
    value = number(row, key)
    if value != int(value) or not least <= value <= MAX_TOKENS:
        raise RowError(f"'{key}' is {value:g}, a whole number from {least} to {MAX_TOKENS} is needed")
    return int(value)


def text(row: dict[str, Any], key: str) -> str:
    """A string. Raises `RowError` naming the key; the value itself is never shown, for it may be a prompt."""
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError(f"'{key}' is {_kind(value)}, text is needed")
    return value


def _shown(value: object) -> str:
    return "missing" if value is None else f"{str(value)[:40]!r}"


def _kind(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"

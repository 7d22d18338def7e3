"""How commands print: tables on a terminal, plain columns otherwise, JSON for machines."""

import os
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import click
import orjson
import rich.console
import rich.table
import rich.text


def is_terminal(stream: TextIO | None = None) -> bool:
    """A person looks at the stream (standard output by default)."""
    return (stream or sys.stdout).isatty()


def text(value: Any, digits: int = 1) -> str:
    """One cell: an unknown value is `-`, a number is short, a fraction has `digits` digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(
    rows: Iterable[Sequence[Any]],
    columns: Sequence[str],
    title: str | None = None,
    stream: TextIO | None = None,
    drop: Sequence[str] = (),
) -> None:
    """Print rows under named columns; numbers to the right. `drop`: see `drawn`."""
    out = stream or sys.stdout
    if is_terminal(out):
        console = rich.console.Console(file=out)
        console.print(drawn(rows, columns, console.width, title, drop))
    else:
        shown, right = _cells(rows, columns)
        _plain(shown, columns, right, title, out)


def drawn(
    rows: Iterable[Sequence[Any]],
    columns: Sequence[str],
    width: int,
    title: str | None = None,
    drop: Sequence[str] = (),
) -> rich.table.Table:
    """A table for a terminal; of `drop`, as many columns as must be are left out (first to last) to fit `width`."""
    shown, right = _cells(rows, columns)
    # Two spaces and a line per column, and the last line.
    widths = [max(len(line[i]) for line in [columns, *shown]) + 3 for i in range(len(columns))]
    kept = set(range(len(columns)))
    for name in drop:
        if sum(widths[i] for i in kept) + 1 > width and name in columns:
            kept.discard(list(columns).index(name))
    made = rich.table.Table(title=title, title_justify="left")
    for i in sorted(kept):
        made.add_column(columns[i], justify="right" if right[i] else "left", overflow="fold")
    for row in shown:
        made.add_row(*(rich.text.Text(row[i]) for i in sorted(kept)))
    return made


def _cells(rows: Iterable[Sequence[Any]], columns: Sequence[str]) -> tuple[list[list[str]], list[bool]]:
    """Rows as text, and which columns hold numbers."""
    cells = [tuple(row) for row in rows]
    right = [all(row[i] is None or isinstance(row[i], int | float) for row in cells) for i in range(len(columns))]
    return [[text(value) for value in row] for row in cells], right


def refuse_unwritable(*files: str | os.PathLike[str] | None) -> None:
    """Raises click.UsageError for a file that could not be written; `-` and None are none."""
    for each in files:
        if each is None or each == "-":
            continue
        path = pathlib.Path(each)
        if not path.parent.is_dir():
            raise click.UsageError(f"{path}: there is no folder {path.parent}")
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise click.UsageError(f"{path}: it cannot be written")


def emit_json(value: Any, to: str = "-") -> None:
    """Write JSON to the file `to`, or to standard output for `-`."""
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    if to == "-":
        sys.stdout.write(data.decode() + "\n")
        sys.stdout.flush()
    else:
        pathlib.Path(to).write_bytes(data + b"\n")


def _plain(shown: list[list[str]], columns: Sequence[str], right: list[bool], title: str | None, out: TextIO) -> None:
    if title:
        out.write(title + "\n")
    lines = [list(columns), *shown]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ]
        out.write("  ".join(cells).rstrip() + "\n")

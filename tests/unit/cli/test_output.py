"""What commands print when nobody looks, and to a person."""

import io
import json
import pathlib

from controller.cli import output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_columns_line_up_without_colour() -> None:
    """Numbers go right, text left, unknown is a dash, and no escape code is written."""
    out = io.StringIO()
    output.table([("a", 1234, None), ("long name", 5, 0.25)], ("name", "count", "share"), stream=out)
    assert out.getvalue().splitlines() == [
        "name       count  share",
        "a          1,234      -",
        "long name      5    0.2",
    ]


def test_terminal_gets_a_drawn_table_with_names_as_they_are() -> None:
    """Brackets in a cell are text, not markup."""
    out = Terminal()
    output.table([("[red]x[/red]", 1)], ("name", "n"), title="T", stream=out)
    assert "[red]x[/red]" in out.getvalue()
    assert "T" in out.getvalue().splitlines()[0]


def test_empty_table_still_names_its_columns() -> None:
    """No rows is a head line, not an error."""
    out = io.StringIO()
    output.table([], ("name", "n"), stream=out)
    assert out.getvalue().split() == ["name", "n"]


def test_json_goes_to_the_file(tmp_path: pathlib.Path) -> None:
    """None stays null."""
    output.emit_json({"a": None, "b": [1.5]}, str(tmp_path / "x.json"))
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1.5]}

"""The frame of a component's command."""

from __future__ import annotations

import argparse
import pathlib

import pytest
from pydantic import Field

from penstock.runtime import entry, errors, settings


class Demo(settings.Settings):
    """Settings of a component."""

    id: str = "none"
    port: int = Field(1, ge=1, le=10)


def run(serve: object, *argv: str) -> int:
    """The frame around `serve`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    return entry.run(Demo, "demo", parser, argv, serve)  # type: ignore[arg-type]


def test_flags_come_before_environment_before_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag wins over the environment and that over the file; the status is that of what is run."""
    file = tmp_path / "demo.yaml"
    file.write_text("port: 2\nid: from-file\n")
    seen: list[Demo] = []

    def serve(given: Demo) -> int:
        seen.append(given)
        return 7

    assert run(serve, "--config", str(file)) == 7
    monkeypatch.setenv("PENSTOCK_DEMO_PORT", "3")
    run(serve, "--config", str(file))
    run(serve, "--config", str(file), "--port", "4")
    assert [(given.id, given.port) for given in seen] == [("from-file", 2), ("from-file", 3), ("from-file", 4)]


def test_errors_are_one_line_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong settings and a start that fails are status 2 and a line that names the component, with no password in it."""

    def fails(_: Demo) -> int:
        raise errors.StartError("no answer from redis://:hunter2@host:1/0")

    assert run(fails, "--port", "11") == 2
    assert "demo: port: 11 from" in capsys.readouterr().err
    assert run(fails) == 2
    said = capsys.readouterr().err
    assert said.startswith("demo: no answer") and said.count("\n") == 1 and "hunter2" not in said

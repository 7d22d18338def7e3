"""Settings: sources, precedence, and errors that can be acted on."""

from __future__ import annotations

import pathlib
from typing import Literal

import pydantic
import pytest

from penstock.runtime import errors, logs, settings


class Gateway(settings.Settings):
    """A component with every kind of field."""

    port: int = pydantic.Field(8080, ge=1, le=65535, description="TCP port")
    policy: Literal["default", "random"] = pydantic.Field("default", description="Routing profile")
    redis_url: str = pydantic.Field("", description="Redis", json_schema_extra={"secret": True})
    endpoints: tuple[str, ...] = pydantic.Field((), description="Servers")
    log: logs.LogSettings = logs.LogSettings()


def load(tmp_path: pathlib.Path, text: str = "", **kwargs: object) -> Gateway:
    """Settings from a file's text and other sources."""
    file = tmp_path / "g.yaml"
    file.write_text(text)
    return settings.load(Gateway, "gateway", file=file, **kwargs)  # type: ignore[arg-type]


def test_later_source_wins(tmp_path: pathlib.Path) -> None:
    """File < environment < flags; a flag of None is not given; nested fields work in all of them."""
    got = load(
        tmp_path,
        "version: 1\nport: 1000\npolicy: random\nlog: {level: error}",
        env={"PENSTOCK_GATEWAY_PORT": "2000", "PENSTOCK_GATEWAY_LOG__LEVEL": "debug", "OTHER": "x"},
        flags={"port": 3000, "policy": None, "log.format": "json"},
    )
    assert (got.port, got.policy, got.log.level, got.log.format) == (3000, "random", "debug", "json")


@pytest.mark.parametrize(
    ("text", "kwargs", "parts"),
    [
        ("prot: 1", {}, ["prot: unknown key", "g.yaml", "did you mean port?", "redis_url"]),
        ("log: {levle: x}", {}, ["log.levle", "log.level"]),
        ("", {"env": {"PENSTOCK_GATEWAY_PROT": "1"}}, ["PENSTOCK_GATEWAY_PROT", "PENSTOCK_GATEWAY_PORT"]),
        ("", {"flags": {"nope": 1}}, ["nope: unknown key in the flags"]),
        ("port: 0", {}, ["port: 0 from file", "greater than or equal to 1", "le 65535"]),
        ("", {"env": {"PENSTOCK_GATEWAY_PORT": "many"}}, ["port: many", "PENSTOCK_GATEWAY_PORT", "int"]),
        ("policy: rnd", {}, ["policy: rnd", "one of default, random"]),
        ("version: 2", {}, ["version: 2", "allowed: 1"]),
        ("[1, 2", {}, ["is not YAML"]),
        ("- 1", {}, ["must hold a mapping, not a list"]),
        ("log: 3", {}, ["log: unknown key"]),
    ],
)
def test_error_names_key_source_value_and_allowed(
    tmp_path: pathlib.Path, text: str, kwargs: dict[str, object], parts: list[str]
) -> None:
    """What is wrong, where it came from and what is allowed stand in the message."""
    with pytest.raises(errors.SettingsError) as caught:
        load(tmp_path, text, **kwargs)
    for part in parts:
        assert part in str(caught.value)


def test_secret_is_masked_in_errors_and_reference(tmp_path: pathlib.Path) -> None:
    """A secret field's value never stands in an error; its default not in the reference."""
    with pytest.raises(errors.SettingsError) as caught:
        load(tmp_path, "redis_url: [hunter2]")
    assert "hunter2" not in str(caught.value) and "redis_url: ***" in str(caught.value)


def test_lists_from_environment() -> None:
    """A list in the environment is comma-separated or YAML."""
    for text in ("a, b", "[a, b]"):
        got = settings.load(Gateway, "gateway", env={"PENSTOCK_GATEWAY_ENDPOINTS": text})
        assert got.endpoints == ("a", "b")


def test_describe_lists_every_leaf() -> None:
    """The reference has one row per field, nested ones included, with environment name, type and default."""
    rows = {row.key: row for row in settings.describe(Gateway, "gateway")}
    assert set(rows) == {"port", "policy", "redis_url", "endpoints", "log.format", "log.level"}
    assert rows["port"].type == "int, ge 1, le 65535" and rows["port"].default == "8080"
    assert rows["log.level"].env == "PENSTOCK_GATEWAY_LOG__LEVEL"
    assert rows["log.level"].default == "info"


def test_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    """A settings file that cannot be read is an error that names it."""
    with pytest.raises(errors.SettingsError, match="nope.yaml"):
        settings.load(Gateway, "gateway", file=tmp_path / "nope.yaml")

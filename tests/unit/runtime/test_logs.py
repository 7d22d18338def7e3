"""Logs: structure, and nothing secret in them."""

from __future__ import annotations

import io
import json

import pytest

from penstock.runtime import logs


def written(**fields: object) -> dict[str, object]:
    """One logged line, as a machine reads it."""
    out = io.StringIO()
    logs.configure(logs.LogSettings(format="json"), out)
    logs.get("gateway").info("request_done", **fields)
    line: dict[str, object] = json.loads(out.getvalue())
    return line


def test_line_is_event_with_fields() -> None:
    """A line carries event, component, level, time and what was given."""
    line = written(endpoint="w-0", duration_ms=1.5)
    assert line["event"] == "request_done" and line["component"] == "gateway" and line["level"] == "info"
    assert line["endpoint"] == "w-0" and line["duration_ms"] == 1.5 and str(line["at"]).endswith("Z")


@pytest.mark.parametrize(
    "field",
    ["api_key", "Authorization", "password", "token", "access_token", "db_password", "secret", "x-api-key", "prompt",
     "messages", "input", "content"],
)  # fmt: skip
def test_secret_and_content_keys_are_redacted(field: str) -> None:
    """A value under a name that looks secret or holds what a user wrote is replaced, nested too."""
    assert written(**{field: "hunter2"})[field] == logs.REDACTED
    assert written(outer={"list": [{field: "hunter2"}]})["outer"] == {"list": [{field: logs.REDACTED}]}


def test_counts_are_kept() -> None:
    """Numbers of tokens are no secrets."""
    line = written(prompt_tokens=12, input_tokens=3, cached_tokens=None, prompt=7)
    assert (line["prompt_tokens"], line["input_tokens"], line["prompt"]) == (12, 3, 7)


def test_url_password_is_masked_everywhere() -> None:
    """A password in a URL is masked in any string, tracebacks included."""
    assert written(reason="cannot reach rediss://u:hunter2@h:1/0")["reason"] == "cannot reach rediss://u:***@h:1/0"
    out = io.StringIO()
    logs.configure(logs.LogSettings(format="json"), out)
    try:
        raise ValueError("redis://:hunter2@h:1")
    except ValueError:
        logs.get("x").exception("failed")
    assert "hunter2" not in out.getvalue() and "ValueError" in out.getvalue()


def test_console_is_redacted_too() -> None:
    """The console format passes the same filter."""
    out = io.StringIO()
    logs.configure(logs.LogSettings(format="console"), out)
    logs.get("x").info("event_here", token="hunter2")
    assert "hunter2" not in out.getvalue() and "event_here" in out.getvalue()

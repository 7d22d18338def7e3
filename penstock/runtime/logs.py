"""Structured logs: an event in snake_case and key=value, JSON lines for machines, a console on a terminal.

Nothing secret and nothing that a user wrote reaches a log: values under names that look like secrets or content are
replaced, and passwords inside URLs are masked wherever a URL stands.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from pydantic import Field

from penstock.runtime import settings as settings_module

REDACTED = "[redacted]"

# Names as they appear in settings, headers and OpenAI bodies, with `-` read as `_`.
_SECRET = frozenset({
    "api_key", "apikey", "authorization", "proxy_authorization", "password", "passwd", "requirepass", "token", "secret",
    "cookie", "set_cookie", "credential", "credentials", "private_key",
})  # fmt: skip
_SECRET_ENDS = ("_password", "_secret", "_token", "_api_key", "_private_key")
_CONTENT = frozenset({
    "prompt", "prompts", "messages", "message_content", "input", "inputs", "content", "text", "completion", "body",
    "output_text", "delta", "tools", "tool_calls", "arguments", "token_ids", "prompt_token_ids",
})  # fmt: skip
_URL_PASSWORD = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://[^/\s:@]*):(?P<password>[^/\s@]+)@")


class LogSettings(settings_module.Settings):
    """How a process logs."""

    format: Literal["auto", "json", "console"] = Field(
        "auto", description="json lines, console, or auto: console on a terminal, json elsewhere"
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is written")


def mask_urls(text: str) -> str:
    """`text` with the password of each URL in it replaced by `***`."""
    return _URL_PASSWORD.sub(r"\g<scheme>:***@", text)


def is_secret(key: str) -> bool:
    """Whether a value under this name is a credential."""
    name = key.lower().replace("-", "_")
    return name in _SECRET or name.endswith(_SECRET_ENDS)


def redact(value: Any, key: str = "") -> Any:
    """`value` as it may be logged under `key`: secrets and content replaced, at any depth."""
    if value is None or isinstance(value, bool):
        return value
    if is_secret(key):
        return REDACTED
    if isinstance(value, (int, float)):
        return value
    if key.lower().replace("-", "_") in _CONTENT:
        return REDACTED
    if isinstance(value, str):
        return mask_urls(value)
    if isinstance(value, Mapping):
        return {name: redact(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item) for item in value]
    return value


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in list(event):
        event[key] = redact(event[key], key)
    return event


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Sets up logging of this process; called once, by `main`. Standard-library loggers keep to warnings."""
    out = stream if stream is not None else sys.stderr
    console = settings.format == "console" or (settings.format == "auto" and out.isatty())
    # `_redact_event` comes after the traceback was formatted and before anything is written.
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.format_exc_info,
        _redact_event,
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(default=str),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )


def get(component: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry `component`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=component)
    return logger

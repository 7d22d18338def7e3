"""Errors in OpenAI's shape, and the one table from reason to HTTP status."""

from __future__ import annotations

import enum

import orjson


class Reason(enum.StrEnum):
    """Why a request was not answered. Each has one status, one OpenAI `type` and one `code`."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    TOO_LARGE = "request_too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    OVERLOADED = "overloaded"
    NO_ENDPOINT = "no_ready_endpoint"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_TIMEOUT = "upstream_timeout"


STATUS: dict[Reason, int] = {
    Reason.BAD_REQUEST: 400,
    Reason.UNAUTHORIZED: 401,
    Reason.MODEL_NOT_FOUND: 404,
    Reason.NOT_FOUND: 404,
    Reason.METHOD_NOT_ALLOWED: 405,
    Reason.REQUEST_TIMEOUT: 408,
    Reason.TOO_LARGE: 413,
    Reason.OVERLOADED: 503,
    Reason.NO_ENDPOINT: 503,
    Reason.UPSTREAM_FAILED: 502,
    Reason.UPSTREAM_TIMEOUT: 504,
    Reason.HEADERS_TOO_LARGE: 431,
}

_TYPES: dict[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    431: "invalid_request_error",
}


def error_body(reason: Reason, message: str, param: str | None = None) -> bytes:
    """The JSON body of an error answer, in OpenAI's shape."""
    kind = _TYPES.get(STATUS[reason], "server_error")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": str(reason)}})

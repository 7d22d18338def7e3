"""Errors in OpenAI's shape, with vLLM's words."""

from collections.abc import Sequence

import msgspec


class ApiError(Exception):
    """An answer that is an error: HTTP status and OpenAI's `error` object."""

    def __init__(self, status: int, kind: str, message: str, param: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.param = param

    def body(self) -> bytes:
        """The JSON body."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return msgspec.json.encode({"error": error})


def bad_request(message: str, param: str | None) -> ApiError:
    """400."""
    return ApiError(400, "BadRequestError", message, param)


def not_found(message: str, param: str | None = None) -> ApiError:
    """404."""
    return ApiError(404, "NotFoundError", message, param)


def unavailable(message: str) -> ApiError:
    """503."""
    return ApiError(503, "ServiceUnavailableError", message, None)


def unknown_model(model: str, served: Sequence[str]) -> ApiError:
    """404 for a model that is not served; says what is."""
    return not_found(f"The model `{model}` does not exist. Valid aliases: {', '.join(served)}.", "model")


def context_length(limit_tokens: int, prompt_tokens: int) -> ApiError:
    """400 for a prompt that fills the model's whole context."""
    message = (
        f"This model's maximum context length is {limit_tokens} tokens. However, your prompt contains"
        f" {prompt_tokens} input tokens, which exceeds this limit even without any output tokens."
        f" Please reduce the length of the input prompt. (parameter=input_tokens, value={prompt_tokens})"
    )
    return bad_request(message, "input_tokens")

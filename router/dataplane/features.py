"""Features of a request body: what routing needs, and the checks that give a client a clear error.

The body itself is forwarded as it came; only model, prompt text and a few flags are looked at. The prompt's text stands
in for its tokens: equal texts give equal tokens, which is all that prefix routing needs.
"""

from __future__ import annotations

import array
from typing import Any, final

import orjson

CHAT = b"/v1/chat/completions"
COMPLETIONS = b"/v1/completions"
EMBEDDINGS = b"/v1/embeddings"
HOT_PATHS = frozenset((CHAT, COMPLETIONS, EMBEDDINGS))


class BadRequestError(ValueError):
    """A body that cannot be served; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@final
class Features:
    """What a body says. `text` is what gets hashed; `is_tokens` where it is token ids, four bytes each."""

    __slots__ = ("is_tokens", "max_tokens", "model", "salt", "stream", "text", "user")

    def __init__(
        self, model: str, text: bytes, is_tokens: bool, stream: bool, max_tokens: int | None, salt: str, user: str
    ) -> None:
        self.model = model
        self.text = text
        self.is_tokens = is_tokens
        self.stream = stream
        self.max_tokens = max_tokens
        self.salt = salt
        self.user = user


def extract(path: bytes, body: bytes) -> Features:
    """Features of `body`, which was posted to `path`. Raises BadRequestError."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequestError(f"the body is not valid JSON: {exc}") from exc
    if type(fields) is not dict:
        raise BadRequestError("the body must be a JSON object")
    get = fields.get
    model = get("model")
    if type(model) is not str or not model:
        raise BadRequestError("'model' must be a non-empty string", "model")
    is_tokens = False
    if path is CHAT:
        text = _chat_text(fields)
        limit = get("max_completion_tokens")
        if limit is None:
            limit = get("max_tokens")
    elif path is COMPLETIONS:
        text, is_tokens = _prompt_text(get("prompt"), "prompt")
        limit = get("max_tokens")
    else:
        text, is_tokens = _prompt_text(get("input"), "input")
        limit = None
    stream = get("stream", False)
    if stream is not True and stream is not False and stream is not None:
        raise BadRequestError("'stream' must be true or false", "stream")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise BadRequestError("'max_tokens' must be an integer of at least 0", "max_tokens")
    salt = get("cache_salt")
    user = get("user")
    return Features(
        model,
        text,
        is_tokens,
        stream is True,
        limit,
        salt if type(salt) is str else "",
        user if type(user) is str else "",
    )


def _chat_text(fields: dict[str, Any]) -> bytes:
    messages = fields.get("messages")
    if type(messages) is not list or not messages:
        raise BadRequestError("'messages' must be a non-empty list", "messages")
    parts: list[str] = []
    # Chat templates put tools before the messages, so they are part of the prefix.
    tools = fields.get("tools")
    if tools:
        parts.append(_json_text(tools, "tools"))
    for position, message in enumerate(messages):
        if type(message) is not dict:
            raise BadRequestError(f"'messages[{position}]' must be an object", f"messages[{position}]")
        role = message.get("role")
        if type(role) is not str:
            raise BadRequestError(f"'messages[{position}].role' must be a string", f"messages[{position}].role")
        content = message.get("content")
        if type(content) is str:
            parts.append(f"\x1e{role}\x1f{content}")
        elif content is None or type(content) is list:
            parts.append(f"\x1e{role}\x1f{_parts_text(content, position)}")
        else:
            raise BadRequestError(
                f"'messages[{position}].content' must be a string or a list of parts",
                f"messages[{position}].content",
            )
        calls = message.get("tool_calls")
        if calls:
            parts.append(_json_text(calls, f"messages[{position}].tool_calls"))
    return "".join(parts).encode()


def _parts_text(content: list[Any] | None, position: int) -> str:
    if content is None:
        return ""
    texts: list[str] = []
    for part in content:
        if type(part) is not dict:
            param = f"messages[{position}].content"
            raise BadRequestError(f"'{param}' must hold objects", param)
        text = part.get("text")
        texts.append(text if type(text) is str else _json_text(part, f"messages[{position}].content"))
    return "\x1d".join(texts)


def _json_text(value: Any, param: str) -> str:
    """JSON of a part that has no text of its own. What can be read can be nested too deeply to be written."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as exc:
        raise BadRequestError(f"'{param}' is nested too deeply", param) from exc


def _prompt_text(prompt: Any, name: str) -> tuple[bytes, bool]:
    """Text of a prompt: a string, a list of strings, a list of token ids, or a list of such lists."""
    if type(prompt) is str:
        return prompt.encode(), False
    if type(prompt) is list and prompt:
        first = prompt[0]
        if type(first) is int:
            return _token_bytes(prompt, name), True
        if type(first) is str and all(type(item) is str for item in prompt):
            return "\x1e".join(prompt).encode(), False
        if type(first) is list:
            return b"".join(_token_bytes(item, name) for item in prompt), True
    raise BadRequestError(f"'{name}' must be a string, a list of strings, or a list of token ids", name)


def _token_bytes(ids: Any, name: str) -> bytes:
    try:
        return array.array("I", ids).tobytes()
    except (TypeError, ValueError, OverflowError) as exc:
        raise BadRequestError(f"'{name}' must hold token ids from 0 to 4294967295", name) from exc

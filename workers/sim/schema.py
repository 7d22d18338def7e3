"""Request bodies of the OpenAI API as vLLM takes them. Unknown fields are ignored, as vLLM does."""

import re
from typing import Annotated, Any, TypeVar

import msgspec

from workers.sim import errors

Positive = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Salt = Annotated[str, msgspec.Meta(min_length=1)]


class StreamOptions(msgspec.Struct):
    """`stream_options`."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Sampling(msgspec.Struct, kw_only=True):
    """Fields that the generating endpoints share."""

    model: str | None = None
    max_tokens: Positive | None = None
    min_tokens: NotNegative = 0
    n: Positive | None = 1
    ignore_eos: bool = False
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    priority: int = 0
    cache_salt: Salt | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None


class CompletionRequest(Sampling, kw_only=True):
    """`/v1/completions`."""

    prompt: Any
    """A text or token ids, or a list of one of either."""


class Message(msgspec.Struct, kw_only=True):
    """One message of a chat."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Any] | None = None


class ChatRequest(Sampling, kw_only=True):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    tools: list[Any] | None = None


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """`/v1/embeddings`."""

    model: str | None = None
    input: Any
    encoding_format: str = "float"
    dimensions: Positive | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """`/tokenize`: a prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """`/detokenize`."""

    model: str | None = None
    tokens: list[int]


class LoadLora(msgspec.Struct, kw_only=True):
    """`/v1/load_lora_adapter`."""

    lora_name: Annotated[str, msgspec.Meta(min_length=1)]
    lora_path: Annotated[str, msgspec.Meta(min_length=1)]
    load_inplace: bool = False


class UnloadLora(msgspec.Struct, kw_only=True):
    """`/v1/unload_lora_adapter`."""

    lora_name: str
    lora_int_id: int | None = None


Body = TypeVar("Body")

_FIELD = re.compile(r"at `\$\.([A-Za-z_]+)")
_MISSING = re.compile(r"missing required field `(\w+)`")


def decode(data: bytes, kind: type[Body]) -> Body:
    """Parse a request body. Raises errors.ApiError (400) naming the field that is wrong."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as exc:
        text = str(exc)
        found = _FIELD.search(text) or _MISSING.search(text)
        field = found.group(1) if found else None
        raise errors.bad_request(f"{field or 'body'}: {text}", field) from exc
    except msgspec.DecodeError as exc:
        raise errors.bad_request(f"the body is not JSON: {exc}", None) from exc


def message_text(message: Message) -> str:
    """The text of a message, with its tool calls. Raises errors.ApiError for content that is not text."""
    text = ""
    if isinstance(message.content, str):
        text = message.content
    for part in message.content if isinstance(message.content, list) else ():
        if part.get("type") not in ("text", "input_text", "refusal", "output_text"):
            raise errors.bad_request(
                f"messages: content part of type {part.get('type')!r}; this model takes only text", "messages"
            )
        text += str(part.get("text", ""))
    if message.tool_calls:
        text += msgspec.json.encode(message.tool_calls).decode()
    return text


def prompt_of(prompt: Any, field: str = "prompt") -> str | list[int]:
    """The one prompt of a request: text or token ids. Raises errors.ApiError for anything else."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return prompt
    if isinstance(prompt, list) and len(prompt) > 1:
        raise errors.bad_request(f"{field}: a simulated worker takes one prompt per request", field)
    raise errors.bad_request(f"{field}: must be a text or a list of token ids that is not empty", field)

"""OpenAI request bodies from trace requests."""

import dataclasses
from typing import Any

import orjson

from penstock.workload import prompts, request

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


@dataclasses.dataclass(frozen=True, slots=True)
class BodyOptions:
    """How bodies are made.

    model: asked for in every body; None leaves the model of a body that the trace holds.
    endpoint: `chat` or `completions`, for requests whose body the trace does not hold.
    max_tokens_cap: no answer is asked to be longer than this.
    ignore_eos: ask for answers of exactly the trace's length (an extension that vLLM and SGLang know).
    """

    model: str | None
    endpoint: str = "chat"
    max_tokens_cap: int | None = None
    ignore_eos: bool = False


class Bodies:
    """Makes the path and the body of each request."""

    def __init__(self, maker: prompts.Prompts, options: BodyOptions) -> None:
        self._prompts = maker
        self._options = options

    def build(self, asked: request.TraceRequest) -> tuple[str, bytes]:
        """Path and JSON body, always streaming and with usage."""
        options = self._options
        body, endpoint = self._own(asked) if asked.body is None else self._given(asked.body)
        if options.model is not None:
            body["model"] = options.model
        if options.ignore_eos:
            body["ignore_eos"] = True
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
        return PATHS[endpoint], orjson.dumps(body)

    def _own(self, asked: request.TraceRequest) -> tuple[dict[str, Any], str]:
        text = self._prompts.text(asked)
        body: dict[str, Any] = {"model": None, "max_tokens": self._capped(max(1, asked.output_tokens))}
        if self._options.endpoint == "chat":
            body["messages"] = [{"role": "user", "content": text}]
        else:
            body["prompt"] = text
        return body, self._options.endpoint

    def _given(self, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
        body = dict(given)
        names = [name for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
        for name in names:
            body[name] = self._capped(body[name])
        if not names and self._options.max_tokens_cap is not None:
            body["max_tokens"] = self._options.max_tokens_cap
        return body, "chat" if "messages" in body else "completions"

    def _capped(self, tokens: int) -> int:
        cap = self._options.max_tokens_cap
        return tokens if cap is None else min(tokens, cap)

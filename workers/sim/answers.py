"""Answers in OpenAI's shape, whole and as server-sent events."""

from collections.abc import Sequence
from typing import Any

import msgspec

FINGERPRINT = "penstock-simulated"
DONE = b"data: [DONE]\n\n"

_MARK = "\0the text goes here\0"

_encode = msgspec.json.encode


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """OpenAI's `usage` object."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


class Shape:
    """Builds the objects of one answer: a chat's or a completion's."""

    def __init__(self, chat: bool, answer_id: str, created_s: int, model: str, with_ids: bool) -> None:
        self._chat = chat
        self._with_ids = with_ids
        self._head = {
            "id": answer_id,
            "created": created_s,
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }

        # All but the text of a plain event of tokens is the same each time.
        plain = self._tokens_event(_MARK, (), None, None, None)
        self._before, _, self._after = plain.rpartition(_encode(_MARK))

    def whole(
        self,
        text: str,
        finish_reason: str,
        counted: dict[str, Any],
        ids: Sequence[int],
        prompt_ids: Sequence[int],
    ) -> bytes:
        """The body of an answer that is not streamed."""
        choice: dict[str, Any] = {
            "index": 0,
            "logprobs": None,
            "finish_reason": finish_reason,
            "stop_reason": None,
        }
        body: dict[str, Any] = {**self._head, "usage": counted}
        if self._chat:
            body["object"] = "chat.completion"
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            if self._with_ids:
                body["prompt_token_ids"] = prompt_ids
        else:
            body["object"] = "text_completion"
            choice["text"] = text
            if self._with_ids:
                choice["prompt_token_ids"] = prompt_ids
        if self._with_ids:
            choice["token_ids"] = ids
        return _encode({**body, "choices": [choice]})

    def opening(self, prompt_ids: Sequence[int], counted: dict[str, Any] | None) -> bytes:
        """The event before the first token; only chats have one."""
        if not self._chat:
            return b""
        extra: dict[str, Any] = {"prompt_token_ids": prompt_ids} if self._with_ids else {}
        delta = {"role": "assistant", "content": ""}
        return self._event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}], counted, extra)

    def tokens(
        self,
        text: str,
        ids: Sequence[int],
        finish_reason: str | None,
        counted: dict[str, Any] | None,
        prompt_ids: Sequence[int] | None = None,
    ) -> bytes:
        """The event of new tokens; a completion's first event brings `prompt_ids` where ids are wanted."""
        if finish_reason is None and counted is None and not self._with_ids:
            return self._before + _encode(text) + self._after
        return self._tokens_event(text, ids, finish_reason, counted, prompt_ids)

    def _tokens_event(
        self,
        text: str,
        ids: Sequence[int],
        finish_reason: str | None,
        counted: dict[str, Any] | None,
        prompt_ids: Sequence[int] | None,
    ) -> bytes:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        if self._chat:
            choice["delta"] = {"content": text}
        else:
            choice["text"] = text
        if finish_reason is not None:
            choice["stop_reason"] = None
        if self._with_ids:
            choice["token_ids"] = ids
            if prompt_ids is not None and not self._chat:
                choice["prompt_token_ids"] = prompt_ids
        return self._event([choice], counted, {})

    def usage_event(self, counted: dict[str, Any]) -> bytes:
        """The last event before the end, for `include_usage`."""
        return self._event([], counted, {})

    def _event(self, choices: list[Any], counted: dict[str, Any] | None, extra: dict[str, Any]) -> bytes:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        body: dict[str, Any] = {**self._head, "object": kind, "choices": choices, **extra}
        if counted is not None:
            body["usage"] = counted
        return b"data: " + _encode(body) + b"\n\n"

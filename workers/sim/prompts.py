"""From a request body to a request for the engine: prompt bytes, block hashes, and how the answer will go."""

import dataclasses
from collections.abc import Sequence

import msgspec
import xxhash

from workers.engine import types
from workers.sim import errors, schema, settings, tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the simulated model sees it."""

    data: bytes
    """Whole tokens."""
    tokens: int
    lora: str | None
    root: int
    """Root of the block hash chain."""
    fork: int
    """What a prompt shares with its continuation; it decides the generated words."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A request for the engine and what its answer will be."""

    request: types.Request
    prompt: Prompt
    finish_reason: str
    """`stop` if the answer ends by itself, `length` if at its limit."""


class Planner:
    """Turns request bodies into plans. Knows the model, its adapters and its limits."""

    def __init__(self, config: settings.SimSettings, block_size: int) -> None:
        self.tokenizer = tokens.Tokenizer(config.bytes_per_token)
        self.loras: dict[str, str] = {}
        """Adapter name to path."""
        self._config = config
        self._block_bytes = block_size * config.bytes_per_token
        self._words = tokens.Words(config.bytes_per_token, config.seed, config.mean_output_tokens)

    def chat_prompt(self, body: schema.ChatRequest) -> Prompt:
        """The prompt of a chat. Raises errors.ApiError."""
        lora = self.adapter_of(body.model)
        messages = [(message.role, schema.message_text(message)) for message in body.messages]
        if body.tools:
            messages.insert(0, ("tools", msgspec.json.encode(body.tools).decode()))
        return self._prompt(self.tokenizer.render_chat(messages), lora, body.cache_salt)

    def completion_prompt(self, body: schema.CompletionRequest) -> Prompt:
        """The prompt of a completion. Raises errors.ApiError."""
        lora = self.adapter_of(body.model)
        return self._prompt(self.prompt_data(body.prompt, "prompt"), lora, body.cache_salt)

    def embedding_prompt(self, model: str | None, item: str | list[int]) -> Prompt:
        """The prompt of one text to embed. Raises errors.ApiError."""
        return self._prompt(self.prompt_data(item, "input"), self.adapter_of(model), None)

    def prompt_data(self, prompt: object, field: str) -> bytes:
        """Whole tokens of a text or of a list of ids. Raises errors.ApiError."""
        one = schema.prompt_of(prompt, field)
        try:
            return self.tokenizer.encode(one) if isinstance(one, str) else self.tokenizer.from_ids(one)
        except tokens.UnknownToken as exc:
            raise errors.bad_request(f"{field}: {exc}", field) from exc

    def adapter_of(self, model: str | None) -> str | None:
        """None for the base model, the name of a loaded adapter, else errors.ApiError (404)."""
        if model is None or model == self._config.model:
            return None
        if model in self.loras:
            return model
        raise errors.unknown_model(model, [self._config.model, *self.loras])

    def plan(self, request_id: str, prompt: Prompt, body: schema.Sampling, max_tokens: int | None) -> Plan:
        """Decide the answer's length, and make the engine's request. Raises errors.ApiError if it is too long."""
        limit = self._config.max_model_len
        if prompt.tokens >= limit:
            raise errors.context_length(limit, prompt.tokens)
        # vLLM cuts an answer that would outgrow the context, rather than refuse the request.
        most = min(max_tokens or limit, limit - prompt.tokens)
        if body.min_tokens > most:
            raise errors.bad_request(
                f"min_tokens must be less than or equal to max_tokens={most}, got {body.min_tokens}.",
                "min_tokens",
            )
        least = most if body.ignore_eos else body.min_tokens
        output, ended = self._words.output_tokens(prompt.fork, prompt.tokens, least + 1, most)
        request = self.engine_request(request_id, prompt, output, body.priority)
        return Plan(request, prompt, "stop" if ended else "length")

    def engine_request(self, request_id: str, prompt: Prompt, output_tokens: int, priority: int) -> types.Request:
        """A request for the engine whose generated blocks can be reused too."""

        def extend(first: int, count: int) -> Sequence[int]:
            parent = request.hashes[first - 1] if first else None
            return tokens.block_hashes(self.block_data(request, first, count), self._block_bytes, prompt.root, parent)

        hashes = tokens.block_hashes(prompt.data, self._block_bytes, prompt.root)
        request = types.Request(
            request_id,
            prompt.tokens,
            output_tokens,
            hashes,
            priority=priority,
            extend=extend,
            lora=prompt.lora,
            source=prompt,
        )
        return request

    def output(self, prompt: Prompt, start: int, stop: int) -> bytes:
        """Generated tokens start..stop-1, counted from the first generated one."""
        return b"".join(self._words.tokens(prompt.fork, prompt.tokens + start, prompt.tokens + stop))

    def block_data(self, request: types.Request, first: int, count: int) -> bytes:
        """The tokens in blocks first..first+count-1 of a request, from its prompt and what it generated."""
        prompt = request.source
        assert isinstance(prompt, Prompt)
        start, stop = first * self._block_bytes, (first + count) * self._block_bytes
        data = prompt.data[start:stop]
        if stop > len(prompt.data):
            begin = max(start, len(prompt.data))
            width = self.tokenizer.width
            data += b"".join(self._words.tokens(prompt.fork, begin // width, stop // width))
        return data

    def _prompt(self, data: bytes, lora: str | None, salt: str | None) -> Prompt:
        if not data:
            raise errors.bad_request("prompt: must not be empty", "prompt")
        root = tokens.chain_root(self._config.seed, lora and f"{lora}:{self.loras[lora]}", salt)
        fork = xxhash.xxh3_64_intdigest(data[: self._block_bytes]) if len(data) >= self._block_bytes else 0
        return Prompt(data, self.tokenizer.count(data), lora, root, fork)

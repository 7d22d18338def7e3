"""The endpoints that run the engine: chat, completions, embeddings."""

import base64
import itertools
import struct

import xxhash

from penstock.runtime import clock
from workers.engine import types
from workers.sim import answers, driver, errors, http, prompts, schema

_DIMENSIONS = 64


class Generator:
    """Handlers of the endpoints that use the engine."""

    def __init__(self, model: str, planner: prompts.Planner, runner: driver.Driver, time_source: clock.Clock) -> None:
        self._clock = time_source
        self._model = model
        self._planner = planner
        self._runner = runner
        self._ids = itertools.count()
        """Ids in the engine: a client's own request id may come twice, after a retry."""

    async def chat(self, exchange: http.Exchange) -> None:
        """`POST /v1/chat/completions`."""
        body = schema.decode(await exchange.body(), schema.ChatRequest)
        prompt = self._planner.chat_prompt(body)
        most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        await self._generate(exchange, body, prompt, most, chat=True)

    async def completions(self, exchange: http.Exchange) -> None:
        """`POST /v1/completions`."""
        body = schema.decode(await exchange.body(), schema.CompletionRequest)
        prompt = self._planner.completion_prompt(body)
        most = body.max_tokens if body.max_tokens is not None else 16
        await self._generate(exchange, body, prompt, most, chat=False)

    async def embeddings(self, exchange: http.Exchange) -> None:
        """`POST /v1/embeddings`."""
        body = schema.decode(await exchange.body(), schema.EmbeddingRequest)
        if body.encoding_format not in ("float", "base64"):
            raise errors.bad_request(
                f"encoding_format: {body.encoding_format!r}; allowed: float, base64", "encoding_format"
            )
        many = isinstance(body.input, list) and body.input and isinstance(body.input[0], (str, list))
        data, total = [], 0
        for index, item in enumerate(body.input if many else [body.input]):
            prompt = self._planner.embedding_prompt(body.model, item)
            total += prompt.tokens
            plan = prompts.Plan(self._planner.engine_request(str(next(self._ids)), prompt, 1, 0), prompt, "stop")
            await self._run_whole(exchange, plan)
            vector = _embedding(prompt.data, body.dimensions or _DIMENSIONS, body.encoding_format)
            data.append({"object": "embedding", "index": index, "embedding": vector})
        counted = {"prompt_tokens": total, "total_tokens": total, "completion_tokens": 0}
        await exchange.json(
            200,
            {
                "id": f"embd-{exchange.request_id}",
                "object": "list",
                "created": int(self._clock.now_s()),
                "model": body.model or self._model,
                "data": data,
                "usage": counted,
            },
        )

    async def _generate(
        self,
        exchange: http.Exchange,
        body: schema.Sampling,
        prompt: prompts.Prompt,
        most: int | None,
        chat: bool,
    ) -> None:
        if body.n not in (None, 1):
            raise errors.bad_request(f"n: {body.n}; a simulated worker gives one choice (n=1)", "n")
        if body.stream_options is not None and not body.stream:
            raise errors.bad_request("Stream options can only be defined when `stream=True`.", "stream_options")
        answer_id = f"{'chatcmpl' if chat else 'cmpl'}-{exchange.request_id}"
        plan = self._planner.plan(str(next(self._ids)), prompt, body, most)
        model = prompt.lora or self._model
        shape = answers.Shape(chat, answer_id, int(self._clock.now_s()), model, bool(body.return_token_ids))
        if body.stream:
            await self._stream(exchange, plan, shape, body)
            return
        stream = await self._run_whole(exchange, plan)
        output = self._output(plan, 0, stream.ready)
        tokenizer = self._planner.tokenizer
        ids, prompt_ids = ([], []) if not body.return_token_ids else (tokenizer.ids(output), tokenizer.ids(prompt.data))
        counted = answers.usage(prompt.tokens, stream.ready, plan.request.cached_tokens)
        await exchange.answer(200, shape.whole(tokenizer.text(output), plan.finish_reason, counted, ids, prompt_ids))

    def _submit(self, plan: prompts.Plan, streaming: bool) -> driver.Stream:
        try:
            return self._runner.submit(plan.request, streaming, plan.finish_reason)
        except types.RejectedRequest as exc:
            raise errors.bad_request(str(exc), None) from exc

    async def _run_whole(self, exchange: http.Exchange, plan: prompts.Plan) -> driver.Stream:
        """Run to the end. Raises http.ClientLeft, or errors.ApiError if the worker stops first."""
        stream = self._submit(plan, streaming=False)
        watch = exchange.watch()
        watch.add_done_callback(lambda _: self._runner.abort(plan.request.id))
        try:
            await stream.wait(plan.request.output_tokens)
        finally:
            left = watch.done()
            watch.cancel()
            self._runner.abort(plan.request.id)
        if left:
            raise http.ClientLeft
        if stream.aborted:
            raise errors.unavailable("the worker is stopping")
        return stream

    async def _stream(
        self, exchange: http.Exchange, plan: prompts.Plan, shape: answers.Shape, body: schema.Sampling
    ) -> None:
        stream = self._submit(plan, streaming=True)
        watch = exchange.watch()
        watch.add_done_callback(lambda _: self._runner.abort(plan.request.id))
        try:
            await exchange.begin_events()
            await self._relay(exchange, plan, shape, body, stream)
        finally:
            watch.cancel()
            self._runner.abort(plan.request.id)

    async def _relay(
        self,
        exchange: http.Exchange,
        plan: prompts.Plan,
        shape: answers.Shape,
        body: schema.Sampling,
        stream: driver.Stream,
    ) -> None:
        """Send the tokens as they come; those that come together go out as one event."""
        tokenizer, prompt, request = self._planner.tokenizer, plan.prompt, plan.request
        options = body.stream_options or schema.StreamOptions()
        prompt_ids = tokenizer.ids(prompt.data) if body.return_token_ids else None
        sent = 0
        while True:
            await stream.wait(sent)
            ready = stream.ready
            if stream.aborted:
                error = errors.unavailable("the worker is stopping").body()
                await exchange.event(b"data: " + error + b"\n\n" + answers.DONE, more=False)
                return
            counted = None
            if options.continuous_usage_stats and options.include_usage:
                counted = answers.usage(prompt.tokens, ready, request.cached_tokens)
            output = self._output(plan, sent, ready)
            reason = plan.finish_reason if ready == request.output_tokens else None
            ids = tokenizer.ids(output) if prompt_ids is not None else ()
            events = shape.tokens(tokenizer.text(output), ids, reason, counted, None if sent else prompt_ids)
            if not sent:
                events = shape.opening(prompt_ids or (), counted) + events
            sent = ready
            if reason is not None:
                if options.include_usage:
                    events += shape.usage_event(answers.usage(prompt.tokens, sent, request.cached_tokens))
                await exchange.event(events + answers.DONE, more=False)
                return
            await exchange.event(events)

    def _output(self, plan: prompts.Plan, start: int, stop: int) -> bytes:
        """Generated tokens start..stop-1; the last one of an answer that ends by itself is the (empty) end token."""
        ends = plan.finish_reason == "stop" and stop == plan.request.output_tokens
        output = self._planner.output(plan.prompt, start, stop - 1 if ends else stop)
        return output + bytes(self._planner.tokenizer.width) if ends else output


def _embedding(data: bytes, dimensions: int, encoding: str) -> list[float] | str:
    """A made-up unit vector: equal inputs give equal vectors, nothing else is meant by it."""
    values = [xxhash.xxh3_64_intdigest(data, seed=index) / 2**63 - 1.0 for index in range(dimensions)]
    norm = sum(value * value for value in values) ** 0.5 or 1.0
    vector = [value / norm for value in values]
    if encoding == "base64":
        return base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
    return vector

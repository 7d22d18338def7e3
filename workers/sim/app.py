"""The simulated worker's HTTP interface, as a small ASGI application."""

import os
from collections.abc import Awaitable, Callable

from penstock.runtime import clock
from workers.engine import engine
from workers.sim import answers, driver, errors, generate, http, metrics, prompts, schema, settings

VERSION = "0.0.0+penstock-simulated"

Handler = Callable[[http.Exchange], Awaitable[None]]


class App:
    """Routes requests to their handlers, and turns errors into answers."""

    def __init__(
        self,
        config: settings.SimSettings,
        planner: prompts.Planner,
        runner: driver.Driver,
        measured: metrics.Metrics,
        time_source: clock.Clock,
    ) -> None:
        self._config = config
        self._planner = planner
        self._runner = runner
        self._metrics = measured
        self._clock = time_source
        self._started_s = int(time_source.now_s())
        hot = generate.Generator(config.model, planner, runner, time_source)
        self._routes: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/chat/completions"): hot.chat,
            ("POST", "/v1/completions"): hot.completions,
            ("POST", "/v1/embeddings"): hot.embeddings,
            ("GET", "/v1/models"): self._models,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("POST", "/ping"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/metrics"): self._render_metrics,
            ("GET", "/load"): self._load,
            ("POST", "/v1/load_lora_adapter"): self._load_lora,
            ("POST", "/v1/unload_lora_adapter"): self._unload_lora,
            ("POST", "/reset_prefix_cache"): self._reset,
        }
        self._paths = {path for _, path in self._routes}

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """The ASGI entry."""
        exchange = http.Exchange(scope, receive, send, _request_id(scope))
        try:
            await self._handler(scope)(exchange)
        except errors.ApiError as exc:
            await exchange.answer(exc.status, exc.body())
        except http.ClientLeft:
            pass

    def _handler(self, scope: http.Scope) -> Handler:
        handler = self._routes.get((scope["method"], scope["path"]))
        if handler is not None:
            return handler
        if scope["path"] in self._paths:
            raise errors.ApiError(405, "MethodNotAllowed", "Method Not Allowed", None)
        raise errors.not_found("Not Found")

    async def _models(self, exchange: http.Exchange) -> None:
        card = {"object": "model", "created": self._started_s, "owned_by": answers.FINGERPRINT}
        base = {**card, "id": self._config.model, "root": self._config.model, "parent": None}
        cards = [{**base, "max_model_len": self._config.max_model_len}]
        for name, path in self._planner.loras.items():
            cards.append({**card, "id": name, "root": path, "parent": self._config.model, "max_model_len": None})
        await exchange.json(200, {"object": "list", "data": cards})

    async def _tokenize(self, exchange: http.Exchange) -> None:
        body = schema.decode(await exchange.body(), schema.TokenizeRequest)
        self._planner.adapter_of(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise errors.bad_request("prompt: give exactly one of prompt and messages", "prompt")
        if body.messages is not None:
            pairs = [(message.role, schema.message_text(message)) for message in body.messages]
            data = self._planner.tokenizer.render_chat(pairs)
        else:
            data = self._planner.tokenizer.encode(body.prompt or "")
        ids = self._planner.tokenizer.ids(data)
        answer = {
            "count": len(ids),
            "max_model_len": self._config.max_model_len,
            "tokens": ids,
            "token_strs": None,
        }
        await exchange.json(200, answer)

    async def _detokenize(self, exchange: http.Exchange) -> None:
        body = schema.decode(await exchange.body(), schema.DetokenizeRequest)
        self._planner.adapter_of(body.model)
        data = self._planner.prompt_data(body.tokens, "tokens") if body.tokens else b""
        await exchange.json(200, {"prompt": self._planner.tokenizer.text(data)})

    async def _health(self, exchange: http.Exchange) -> None:
        await exchange.answer(200, b"", b"text/plain")

    async def _version(self, exchange: http.Exchange) -> None:
        await exchange.json(200, {"version": VERSION, "simulated": True, "profile": self._config.profile})

    async def _load(self, exchange: http.Exchange) -> None:
        await exchange.json(200, {"server_load": self._runner.in_flight})

    async def _load_lora(self, exchange: http.Exchange) -> None:
        body = schema.decode(await exchange.body(), schema.LoadLora)
        if body.lora_name in self._planner.loras and not body.load_inplace:
            raise errors.ApiError(
                400,
                "InvalidUserInput",
                f"The lora adapter '{body.lora_name}' has already been loaded."
                " If you want to load the adapter in place, set 'load_inplace' to True.",
                "lora_name",
            )
        self._planner.loras[body.lora_name] = body.lora_path
        await exchange.answer(
            200, f"Success: LoRA adapter '{body.lora_name}' added successfully.".encode(), b"text/plain"
        )

    async def _unload_lora(self, exchange: http.Exchange) -> None:
        body = schema.decode(await exchange.body(), schema.UnloadLora)
        if self._planner.loras.pop(body.lora_name, None) is None:
            raise errors.not_found(f"The lora adapter '{body.lora_name}' cannot be found.", "lora_name")
        text = f"Success: LoRA adapter '{body.lora_name}' removed successfully."
        await exchange.answer(200, text.encode(), b"text/plain")

    async def _reset(self, exchange: http.Exchange) -> None:
        if self._runner.reset_prefix_cache():
            await exchange.answer(200, b"", b"text/plain")
            return
        raise errors.ApiError(500, "InternalServerError", "requests hold blocks; the prefix cache was not reset", None)

    async def _render_metrics(self, exchange: http.Exchange) -> None:
        model = self._runner.engine
        counters = model.counters
        gauges = {
            "num_requests_running": model.num_running,
            "num_requests_waiting": self._runner.in_flight - model.num_running,
            "kv_cache_usage_perc": model.kv_usage,
        }
        totals = {
            "prefix_cache_queries": counters.prefix_queries_tokens,
            "prefix_cache_hits": counters.prefix_hits_tokens,
            "num_preemptions": counters.preemptions,
            "prompt_tokens": counters.prompt_tokens,
            "prompt_tokens_cached": counters.prefix_hits_tokens,
            "generation_tokens": counters.generation_tokens,
        }
        # Not vLLM's: `penstock status` shows it where an engine gives it.
        cached = ("# TYPE penstock:cached_blocks gauge", f"penstock:cached_blocks {model.cached_blocks}")
        extra = (*_info_lines(model), *self._lora_lines(model), *cached)
        text = self._metrics.render(gauges, totals, extra)
        await exchange.answer(200, text, b"text/plain; version=0.0.4; charset=utf-8")

    def _lora_lines(self, model: engine.Engine) -> tuple[str, ...]:
        running, waiting = model.loras()
        pairs = {
            "max_lora": str(max(1, len(self._planner.loras))),
            "waiting_lora_adapters": ",".join(sorted(waiting)),
            "running_lora_adapters": ",".join(sorted(running)),
        }
        line = f"vllm:lora_requests_info{{{metrics.labels(pairs)}}} {self._clock.now_s()}"
        return "# TYPE vllm:lora_requests_info gauge", line


def _info_lines(model: engine.Engine) -> tuple[str, ...]:
    pairs = {
        "block_size": str(model.config.block_size),
        "enable_prefix_caching": str(model.config.prefix_caching),
        "engine": "0",
        "num_gpu_blocks": str(model.config.kv_blocks),
        "simulated": "True",
    }
    return "# TYPE vllm:cache_config_info gauge", f"vllm:cache_config_info{{{metrics.labels(pairs)}}} 1.0"


def _request_id(scope: http.Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and 0 < len(value) <= 128:
            text: str = value.decode("latin-1")
            return text
    return os.urandom(16).hex()

"""`penstock chat`: a prompt in, streamed words out."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Any

import click
import orjson

from controller.cli import output
from controller.replay import answer, fetch, target

PATH = "/v1/chat/completions"
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class ChatError(Exception):
    """The server gave no whole answer; the message says why."""


class _Words:
    """A `connection.Reader` that hands on words as they come."""

    def __init__(self, say: Callable[[str], None], done: "asyncio.Future[None]") -> None:
        self.text = ""
        self.usage: dict[str, Any] | None = None
        self.endpoint: str | None = None
        self._say = say
        self._done = done
        self._status = 0
        self._events = answer.Events()
        self._error_body = b""
        self._whole = False

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Note the status and who answered."""
        self._status, self.endpoint = status, headers.get("x-penstock-endpoint")

    def body(self, data: bytes) -> None:
        """Hand on the words of a stream, keep the body of an error."""
        if self._status != 200:
            self._error_body = (self._error_body + data)[:65536]
            return
        for event in self._events.feed(data):
            if event == b"[DONE]":
                self._whole = True
            else:
                self._event(event)

    def end(self) -> None:
        """The answer is whole, or an error's."""
        if self._status != 200:
            self._fail(f"the server answered {self._status}: {_message(self._error_body)}")
        elif not self._whole:
            self._fail("the answer ended without [DONE]")
        elif not self._done.done():
            self._done.set_result(None)

    def broken(self, reason: str, any_byte: bool) -> None:
        """The connection ended first."""
        if self._whole:
            self.end()
        else:
            self._fail("the connection broke in mid-answer" if any_byte else f"no answer: {reason}")

    def _event(self, event: bytes) -> None:
        try:
            chunk = orjson.loads(event)
        except orjson.JSONDecodeError:
            self._fail("the server sent an event that is not JSON")
            return
        if chunk.get("error") is not None:
            self._fail(f"the server ended the answer: {_message(event)}")
            return
        if chunk.get("usage"):
            self.usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            words = delta.get("content") or ""
            self.text += words
            if words or delta.get("reasoning_content"):
                self._say(words or delta["reasoning_content"])

    def _fail(self, reason: str) -> None:
        if not self._done.done():
            self._done.set_exception(ChatError(reason))


def _message(body: bytes) -> str:
    try:
        error = orjson.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace") or "no reason given"


async def _turn(
    to: target.Target, headers: Mapping[str, str], model: str | None, messages: list[dict[str, str]]
) -> tuple[str, _Words]:
    """Ask for one answer and print it as it comes. Returns the model that was asked, and what it said."""
    model = model or await fetch.first_model(to, headers)
    asked = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    words = _Words(_say, done)
    try:
        made = await fetch.connect(to)
    except OSError as exc:
        raise target.TargetError(f"{to.authority}: {exc}") from exc
    try:
        made.send(to.head("POST", PATH, headers), orjson.dumps(asked), words)
        await done
    finally:
        made.abort()
    return model, words


def _say(words: str) -> None:
    sys.stdout.write(words)
    sys.stdout.flush()


@click.command(short_help="Ask a model one thing, or talk with it.")
@click.argument("prompt", required=False)
@click.option("--target", "url", default="http://127.0.0.1:8080", show_default=True, help="URL of the server.")
@click.option("--model", help="Model to ask.  [default: the first of /v1/models]")
@click.option("--system", help="What the model is told first.")
@click.option("--api-key", envvar="OPENAI_API_KEY", show_envvar=True, help="Bearer token; never shown or kept.")
@click.pass_context
def chat(
    context: click.Context,
    /,
    prompt: str | None,
    url: str,
    model: str | None,
    system: str | None,
    api_key: str | None,
) -> None:
    """Send PROMPT and print the answer as it comes; usage and endpoint go to standard error.

    Without PROMPT: on a terminal a conversation (an empty line or Ctrl-D ends it), else standard input.
    """
    messages = [{"role": "system", "content": system}] if system else []
    talking = prompt is None and output.is_terminal(sys.stdin)
    try:
        to = target.parse(url)
        headers = target.headers(api_key, {})
        if prompt is None and not talking:
            prompt = sys.stdin.read()
        while True:
            said = prompt if prompt is not None else _listen()
            if not said.strip():
                if talking:
                    return
                raise target.TargetError("the prompt is empty")
            messages.append({"role": "user", "content": said})
            model, words = asyncio.run(_turn(to, headers, model, messages))
            messages.append({"role": "assistant", "content": words.text})
            _say("\n")
            click.echo(_footer(words), err=True)
            if not talking:
                return
    except target.TargetError as exc:
        click.echo(f"penstock chat: {exc}", err=True)
        context.exit(EXIT_USAGE)
    except ChatError as exc:
        click.echo(f"\npenstock chat: {exc}", err=True)
        context.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        click.echo(err=True)
        context.exit(EXIT_INTERRUPTED)


def _listen() -> str:
    try:
        return input("> ")
    except EOFError:
        return ""


def _footer(words: _Words) -> str:
    usage = words.usage or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    parts = [
        f"prompt tokens {output.text(usage.get('prompt_tokens'))}",
        f"cached {output.text(cached)}",
        f"answer tokens {output.text(usage.get('completion_tokens'))}",
        f"endpoint {words.endpoint or '-'}",
    ]
    return ", ".join(parts)

"""JSON lines of OpenAI request bodies (`messages` or `prompt`), each with an optional `timestamp` (s)."""

import pathlib
from collections.abc import Iterator
from typing import Any

from penstock.workload import agent, options, request, rows


def read(path: pathlib.Path, opts: options.ReadOptions, errors: request.RowErrors) -> Iterator[request.TraceRequest]:
    """Requests in order of arrival. A row without `timestamp` comes 1 / `rate_rps` after the row before."""
    gap_s = 0.0 if opts.rate_rps is None else 1 / opts.rate_rps
    found: list[request.TraceRequest] = []
    for file in rows.files(path, "*.jsonl"):
        last_s = -gap_s

        def parse(row: dict[str, Any], line: int, source: str = file.name) -> request.TraceRequest:
            nonlocal last_s
            parsed = _parse(row, line, source, last_s + gap_s, opts)
            last_s = parsed.arrival_s
            return parsed

        found.extend(rows.parsed(file, parse, errors))
    yield from sorted(found, key=lambda each: each.arrival_s)


def _parse(
    row: dict[str, Any], line: int, source: str, arrival_s: float, opts: options.ReadOptions
) -> request.TraceRequest:
    if "timestamp" in row:
        arrival_s = rows.number(row, "timestamp")
    body = {key: value for key, value in row.items() if key != "timestamp"}
    session = body.get("user")
    return request.TraceRequest(
        arrival_s=arrival_s,
        input_tokens=_input_tokens(body, opts.bytes_per_token),
        output_tokens=_output_tokens(body, opts.max_output_tokens),
        source=source,
        line=line,
        session=session if isinstance(session, str) else None,
        body=body,
    )


def _input_tokens(body: dict[str, Any], bytes_per_token: float) -> int:
    messages, prompt = body.get("messages"), body.get("prompt")
    if isinstance(messages, list) and messages and all(isinstance(each, dict) for each in messages):
        return agent.estimate_tokens("".join(_content(each) for each in messages), bytes_per_token)
    if isinstance(prompt, str) and prompt:
        return agent.estimate_tokens(prompt, bytes_per_token)
    if isinstance(prompt, list) and prompt:
        if all(type(each) is int for each in prompt):
            return len(prompt)
        if all(isinstance(each, str) for each in prompt):
            return agent.estimate_tokens("".join(prompt), bytes_per_token)
    raise rows.RowError("neither 'messages' (a list of objects) nor 'prompt' (text or token ids) is given")


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _output_tokens(body: dict[str, Any], default: int) -> int:
    for key in ("max_completion_tokens", "max_tokens"):
        if body.get(key) is not None:
            return rows.tokens(body, key, 1)
    return default

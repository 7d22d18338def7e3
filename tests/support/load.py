"""Clients that ask all the time, and what became of each request."""

from __future__ import annotations

import dataclasses
import datetime
import json
import threading
import time
from collections.abc import Iterator

import httpx


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One request: whole, or what went wrong."""

    began_s: float
    asked_at: str
    took_s: float
    problem: str


class Load:
    """As many streams at a time as `clients`, each asked for anew when it has ended. Start it in the cluster's network."""

    def __init__(self, url: str, model: str, clients: int = 4, tokens: int = 24) -> None:
        self._url = url
        self._body = {
            "model": model,
            "messages": [{"role": "user", "content": "Say something long."}],
            "max_tokens": tokens,
            "stream": True,
        }
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(clients)]
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    @property
    def problems(self) -> list[str]:
        """What went wrong, of all requests so far, with the time of asking as logs write it."""
        return [f"{each.asked_at}: {each.problem}" for each in self.outcomes if each.problem]

    def _client(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as http:
            turn = 0
            while not self._done.is_set():
                turn += 1
                began_s, asked_at = time.monotonic(), datetime.datetime.now(datetime.UTC).isoformat()
                problem = self._ask(http, f"client {number}, turn {turn}")
                self.outcomes.append(Outcome(began_s, asked_at, time.monotonic() - began_s, problem))

    def _ask(self, http: httpx.Client, who: str) -> str:
        body = {**self._body, "user": who}
        try:
            with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    return f"{answer.status_code}: {answer.read().decode()[:300]}"
                return _problem(answer.iter_lines())
        except httpx.HTTPError as exc:
            return f"{type(exc).__name__}: {exc}"


def _problem(lines: Iterator[str]) -> str:
    """What is wrong with a stream; empty where it is whole."""
    finished, last = "", ""
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                return f"in the stream: {event['error']}"
            for choice in event.get("choices", []):
                finished = choice.get("finish_reason") or finished
        last = line or last
    return "" if last == "data: [DONE]" and finished else f"cut: ends with {last[:200]!r}"

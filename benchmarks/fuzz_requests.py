"""Mutated HTTP requests: what a broken, careless or hostile client may send. Everything follows from a seed.

A connection carries a few requests. Each begins as a valid one and is changed in its structure (framing, headers, target,
JSON) and then, sometimes, in its bytes. The last request of most connections is valid and asks for the connection to be
closed, so that a gateway which is still in step has to answer and close.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import orjson

HOT = (b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings")
COLD = (b"/v1/models", b"/healthz", b"/readyz", b"/metrics", b"/nothing", b"/debug/state", b"/v1/chat/completions")
# No engine may ever see a header of this name: clients write it only where it must not become one.
CANARY = b"x-smuggled"
_METHODS = (
    b"GET", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"PRI", b"post", b"FOO", b"", b"M-SEARCH",
    b"POST POST", b"\x00POST",
)  # fmt: skip


@dataclasses.dataclass
class Message:
    """A request in parts; `render` puts them together without any check."""

    method: bytes
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    chunked: bool = False
    trailers: bytes = b""
    eol: bytes = b"\r\n"

    def render(self) -> bytes:
        """The bytes on the wire."""
        lines = [self.method + b" " + self.target + b" " + self.version]
        lines += [name + b": " + value for name, value in self.headers]
        head = self.eol.join(lines) + self.eol + self.eol
        if not self.chunked:
            return head + self.body
        middle = len(self.body) // 2
        parts = [part for part in (self.body[:middle], self.body[middle:]) if part]
        return head + b"".join(_chunk(part) for part in parts) + b"0\r\n" + self.trailers + b"\r\n"

    def set(self, name: bytes, value: bytes) -> None:
        """Replaces a header, or adds it."""
        self.headers = [pair for pair in self.headers if pair[0] != name] + [(name, value)]


@dataclasses.dataclass
class Plan:
    """What one connection does. `pieces` are written in turn, a turn of the loop between them or `pause_s`."""

    number: int
    requests: int
    pieces: list[bytes]
    pause_s: float
    leaves_early: bool


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def body_of(rng: random.Random, path: bytes) -> bytes:
    """A valid body for a hot path."""
    text = "word " * rng.randrange(1, 60)
    fields: dict[str, object] = {"model": "m", "user": rng.choice(("", "u1", "\u00fc"))}
    if path == HOT[0]:
        fields["messages"] = [{"role": "user", "content": rng.choice((text, [{"type": "text", "text": text}]))}]
    else:
        fields["prompt" if path == HOT[1] else "input"] = rng.choice((text, [text, text], [1, 2, 3] * 40))
    if path != HOT[2]:
        fields["stream"] = rng.random() < 0.3
        fields["max_tokens"] = rng.randrange(100)
    return orjson.dumps(fields)


def valid(rng: random.Random, *, close: bool = False) -> Message:
    """A request that must be answered."""
    path = rng.choice(HOT)
    body = body_of(rng, path)
    message = Message(b"POST", path, b"HTTP/1.1", [(b"host", b"gateway")], body, chunked=rng.random() < 0.15)
    if close:
        message.headers.append((b"connection", b"close"))
    if rng.random() < 0.5:
        message.headers.append((b"x-request-id", b"id-%d" % rng.randrange(1 << 30)))
    if message.chunked:
        message.headers.append((b"transfer-encoding", b"chunked"))
    else:
        message.headers.append((b"content-length", b"%d" % len(body)))
    return message


# Mutations of structure.


def _method(rng: random.Random, message: Message) -> None:
    message.method = rng.choice(_METHODS)


def _target(rng: random.Random, message: Message) -> None:
    path = message.target
    message.target = rng.choice((
        b"http://other.example" + path, b"https://u:p@[::1]:99999" + path, path + b"?a=b&a=%00", path + b"#frag",
        path.replace(b"v1", b"%76%31"), b"//" + path, path + b"/", b"/v1/../v1/completions", b"*", b"", b"/%ff%fe%00",
        b"/" + b"a" * rng.choice((100, 9_000, 70_000)), path + b" x", b"/\xc3\xbc\xff", path + b"\x00", b"x:y", b"/%",
        b"http://", b"http://[", path.upper(), path + b"?" + b"%" * 50,
    ))  # fmt: skip


def _version(rng: random.Random, message: Message) -> None:
    message.version = rng.choice(
        (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.9", b"HTTP/1.1 ", b"", b"ICY", b"HTTP/11.1")
    )
    if rng.random() < 0.3:
        message.headers.append((b"connection", b"keep-alive"))


def _length(rng: random.Random, message: Message) -> None:
    true = len(message.body)
    message.set(b"content-length", rng.choice((
        b"-1", b"+%d" % true, b"0x%x" % true, b"%d, %d" % (true, true), b"%d " % true, b"\t%d" % true, b"", b"NaN",
        b"%d" % (true + 1), b"%d" % max(0, true - 1), b"0", b"9" * 18, b"9" * 40, b"%d.0" % true, b"1e3",
        b"18446744073709551616",
        b"00%d" % true, b"9223372036854775807",
    )))  # fmt: skip


def _length_twice(rng: random.Random, message: Message) -> None:
    true = len(message.body)
    message.headers.append((b"content-length", b"%d" % rng.choice((true, 0, true + 5))))
    if rng.random() < 0.5:
        message.headers.append((b"Content-Length", b"%d" % rng.choice((true, 1))))


def _both(rng: random.Random, message: Message) -> None:
    message.set(b"content-length", b"%d" % rng.choice((len(message.body), 0, 4)))
    message.headers.append((
        rng.choice((b"transfer-encoding", b"Transfer-Encoding", b"transfer-encoding ", b" transfer-encoding",
                    b"transfer_encoding")),
        rng.choice((b"chunked", b" chunked", b"Chunked", b"chunked, identity", b"identity", b"gzip, chunked", b"xchunked",
                    b"chunked\x0b", b"\"chunked\"", b"chunked;q=1")),
    ))  # fmt: skip
    message.chunked = rng.random() < 0.5


def _chunks(rng: random.Random, message: Message) -> None:
    message.headers = [pair for pair in message.headers if pair[0] != b"content-length"]
    message.set(b"transfer-encoding", b"chunked")
    size = rng.choice((
        b"-1", b"0x10", b"G", b"", b" 5", b"5 ", b"5;ext=\"a\"", b"5;" + b"a" * 20_000, b"f" * 16, b"f" * 40,
        b"7fffffffffffffff",
        b"5\n", b"00000000000000000005", b"5\t;x", b"+5",
    ))  # fmt: skip
    message.body = (
        size + rng.choice((b"\r\n", b"\n", b"\r")) + b"hello" + rng.choice((b"\r\n", b"", b"\n")) + b"0\r\n\r\n"
    )
    message.chunked = False


def _trailers(rng: random.Random, message: Message) -> None:
    message.headers = [pair for pair in message.headers if pair[0] != b"content-length"]
    message.set(b"transfer-encoding", b"chunked")
    message.chunked = True
    message.trailers = rng.choice((
        CANARY + b": 1\r\n", b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"x-request-id: trailer\r\n",
        b"authorization: Bearer x\r\n", b"host: other\r\n", b"connection: close\r\n", b"x-penstock-policy: nope\r\n",
        b"a" * 5_000 + b": 1\r\n",
        b"x: " + b"a" * 80_000 + b"\r\n", b"bad trailer\r\n", b"expect: 100-continue\r\n",
    ))  # fmt: skip


def _header(rng: random.Random, message: Message) -> None:
    name, value = rng.choice((
        (b"expect", b"100-continue"), (b"expect", b"200-ok"), (b"connection", b"close, x"), (b"connection", b"upgrade"),
        (b"upgrade", b"h2c"), (b"upgrade", b"websocket"), (b"content-encoding", b"gzip"),
        (b"x-penstock-policy", b"nope"),
        (b"x-penstock-policy", b"random"), (b"x-penstock-policy", b"\xff"), (b"x-request-id", b"a b"),
        (b"x-request-id", b"\xff\xfe"),
        (b"x-request-id", b"a" * 5_000), (b"x-request-id", b""), (b"x-session-id", b"\xf0\x9f"),
        (b"authorization", b"Bearer"),
        (b"host", b"x:y:z"), (b"host", b"a, b"), (b"x", b"a" * rng.choice((1_000, 20_000, 70_000))), (b"", b"no name"),
        (b"bad name", b"v"), (b"bad:name", b"v"), (b"x\x00y", b"v"), (b"x", b"\x00"), (b"x", b"\x7f\x01"),
        (b"\xc3\xbc", b"v"),
        (b"te", b"trailers"), (b"trailer", b"x"), (b"http2-settings", b"AAMAAABk"), (b"keep-alive", b"timeout=5"),
    ))  # fmt: skip
    message.headers.insert(rng.randrange(len(message.headers) + 1), (name, value))
    if name == b"upgrade":
        message.headers.append((b"connection", b"Upgrade"))


def _many_headers(rng: random.Random, message: Message) -> None:
    message.headers += [(b"x-%d" % number, b"v") for number in range(rng.choice((50, 500, 6_000)))]


def _smuggle(rng: random.Random, message: Message) -> None:
    """A line that must stay inside a value, or make the whole request be refused."""
    end = rng.choice((b"\r", b"\n", b"\r\r\n", b"\x00\r", b"\x0b", b"\x0c", b"\xe5\x98\x8a", b"%0d%0a", b"\r ", b"\n "))
    place = rng.randrange(3)
    line = end + CANARY + b": 1"
    if place == 0:
        message.headers.insert(rng.randrange(len(message.headers) + 1), (b"x-safe", b"a" + line))
    elif place == 1:
        message.headers.append((b"x-request-id", b"a" + line))
    else:
        message.target += b"?" + line


def _fold(rng: random.Random, message: Message) -> None:
    message.headers.append((b"x-folded", b"a\r\n" + rng.choice((b" ", b"\t")) + CANARY + b": 1"))


def _inner_request(rng: random.Random, message: Message) -> None:
    """A whole request inside a body whose framing is right: it must reach the engine as text only."""
    inner = b"POST /v1/completions HTTP/1.1\r\n" + CANARY + b": 1\r\ncontent-length: 2\r\n\r\n{}"
    fields = {
        "model": "m",
        "prompt": inner.decode(),
        "messages": [{"role": "user", "content": inner.decode()}],
        "input": "x",
    }
    message.body = orjson.dumps(fields) + b"\r\n" * rng.randrange(3)
    if not message.chunked:
        message.set(b"content-length", b"%d" % len(message.body))


def _eol(rng: random.Random, message: Message) -> None:
    message.eol = rng.choice((b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n "))


def _nested(rng: random.Random) -> bytes:
    depth = rng.choice((10, 200, 254, 255, 300, 1_000, 1_023, 1_100, 30_000))
    return (b"[" * depth + b"]" * depth) if rng.random() < 0.5 else (b'{"a":' * depth + b"1" + b"}" * depth)


def _odd_value(rng: random.Random) -> bytes:
    return rng.choice((
        b"null", b"true", b"-1", b"0", b"1.5", b"1e999", b"-0", b"18446744073709551615", b"18446744073709551616",
        b"9" * 400,
        b'""', b'"\\ud800"', b'"\\u0000"', b'"\xff"', b'"\xf0\x9f\x98\x80"', b"[]", b"{}", b"[null]", b"[[]]",
        b"[{}]", b"[[1],2]",
        b'[1,"a"]', b'["a",1]', b"[-1]", b"[4294967296]", b"[true]", b"[1.5]", b"NaN", b"[[[1]]]", b'[{"role":1}]',
        b'{"a":1}',
        b'[{"role":"user","content":{}}]', b'[{"role":"user","content":[1]}]',
        b'[{"role":"user","content":[{"text":5}]}]',
        b'[{"role":"user","content":"x","tool_calls":"x"}]',
        b'[{"role":"user","content":"\\u2028","tool_calls":[[1]]}]', b"'x'",
        _nested(rng),
        b'[{"role":"user","content":[{"x":' + _nested(rng) + b"}]}]",
        b'[{"role":"user","tool_calls":' + _nested(rng) + b"}]",
    ))  # fmt: skip


def _json(rng: random.Random, message: Message) -> None:
    names = (b"model", b"messages", b"prompt", b"input", b"stream", b"max_tokens", b"max_completion_tokens", b"tools", b"user",
             b"cache_salt")  # fmt: skip
    fields = {b"model": b'"m"', b"prompt": b'"x"', b"input": b'"x"', b"messages": b'[{"role":"user","content":"x"}]'}
    for _ in range(rng.randrange(1, 4)):
        fields[rng.choice(names)] = _odd_value(rng)
    body = b"{" + b",".join(b'"' + name + b'":' + value for name, value in fields.items()) + b"}"
    kind = rng.random()
    if kind < 0.1:
        body = body[: rng.randrange(len(body))]
    elif kind < 0.2:
        body = _odd_value(rng)
    elif kind < 0.25:
        body = b""
    elif kind < 0.3:
        body = b"\xef\xbb\xbf" + body
    message.body = body
    if not message.chunked:
        message.set(b"content-length", b"%d" % len(body))


def _cold(rng: random.Random, message: Message) -> None:
    message.target = rng.choice(COLD)
    message.method = b"GET"
    if rng.random() < 0.7:
        message.body = b""
        message.headers = [pair for pair in message.headers if pair[0] not in (b"content-length", b"transfer-encoding")]
        message.chunked = False


def _large(rng: random.Random, message: Message) -> None:
    message.body = b'{"model":"m","prompt":"' + b"y" * rng.choice((20_000, 70_000, 300_000)) + b'","input":"x"}'
    if not message.chunked:
        message.set(b"content-length", b"%d" % len(message.body))


def _many_chunks(rng: random.Random, message: Message) -> None:
    message.headers = [pair for pair in message.headers if pair[0] != b"content-length"]
    message.set(b"transfer-encoding", b"chunked")
    message.body = b"".join(_chunk(bytes((byte,))) for byte in message.body) + b"0\r\n\r\n"
    message.chunked = False


Mutation = Callable[[random.Random, Message], None]
MUTATIONS: tuple[Mutation, ...] = (
    _method, _target, _version, _length, _length_twice, _both, _chunks, _trailers, _header, _header, _many_headers,
    _smuggle, _fold,
    _inner_request, _eol, _json, _json, _json, _cold, _cold, _large, _many_chunks,
)  # fmt: skip
# After these the bytes stay as they are: a flipped byte could make a line of the canary an honest header.
_FRAGILE: tuple[Mutation, ...] = (_smuggle, _fold, _inner_request, _trailers)
# After these the connection is usually still in step, so that what follows on it is looked at as well.
_GENTLE: tuple[Mutation, ...] = (_json, _json, _json, _large, _many_chunks, _inner_request, _trailers)
_FLIPS = (b"\x00", b"\r", b"\n", b"\r\n", b" ", b":", b"\xff", b"\t", b"0", b"9" * 30, b"\r\n\r\n", b"{", b'"')


def _bytes(rng: random.Random, data: bytes) -> bytes:
    kind = rng.randrange(5)
    at = rng.randrange(len(data) + 1) if rng.random() < 0.3 else rng.randrange(min(len(data), 200) + 1)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.choice(_FLIPS) + data[at:]
    if kind == 2:
        return data[:at] + bytes((rng.randrange(256),)) + data[at + 1 :]
    if kind == 3:
        until = at + rng.randrange(1, 40)
        return data[:at] + data[until:]
    return data[:at] + data[at : at + rng.randrange(1, 60)] + data[at:]


def gentle(rng: random.Random) -> bytes:
    """One request whose framing is right."""
    message = valid(rng)
    if rng.random() < 0.9:
        rng.choice(_GENTLE)(rng, message)
    return message.render()


def _cold_one(rng: random.Random) -> bytes:
    message = valid(rng)
    _cold(rng, message)
    return message.render()


def mutated(rng: random.Random) -> bytes:
    """One request, changed in some way or in several."""
    message = valid(rng)
    kind = rng.random()
    if kind < 0.15:
        return _bytes(rng, message.render())
    if kind < 0.35:
        rng.choice(_FRAGILE)(rng, message)
        return message.render()
    for mutation in rng.sample(MUTATIONS, rng.choice((1, 1, 2, 3))):
        if mutation not in _FRAGILE:
            mutation(rng, message)
    data = message.render()
    return _bytes(rng, data) if rng.random() < 0.15 else data


def plan(seed: int, number: int) -> Plan:
    """What connection `number` of a run does."""
    rng = random.Random(f"{seed}:{number}")
    requests = [gentle(rng) for _ in range(rng.choice((0, 0, 1, 1, 2, 2, 3, 3, 6, 6, 10, 20, 45)))]
    if rng.random() < 0.1:
        requests = [_cold_one(rng) for _ in requests]
    requests += [mutated(rng), valid(rng, close=True).render()]
    data = b"".join(requests)
    kind = rng.random()
    if kind < 0.1:
        pieces = [data[at : at + 1] for at in range(min(len(data), 150))] + [data[150:]]
    elif kind < 0.5:
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 12)))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    elif kind < 0.7:
        pieces = requests
    else:
        pieces = [data]
    pause_s = rng.choice((0.0, 0.0, 0.0, 0.002))
    return Plan(number, len(requests), [piece for piece in pieces if piece], pause_s, rng.random() < 0.08)

"""Whatever a client posts is features or a bad request."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.dataplane import features

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": JSON | st.just("user"),
            "content": JSON | st.lists(st.fixed_dictionaries({"text": JSON})),
            "tool_calls": JSON,
        },
    ),
    max_size=3,
)
BODIES = st.fixed_dictionaries(
    {"model": st.just("m") | JSON},
    optional={
        "messages": MESSAGES | JSON, "prompt": JSON | st.lists(st.integers(-1, 2**33)) | st.lists(st.text()), "input": JSON, "stream": JSON,
        "max_tokens": JSON, "max_completion_tokens": JSON, "tools": JSON, "user": JSON, "cache_salt": JSON,
    },
)  # fmt: skip
PATHS = st.sampled_from([features.CHAT, features.COMPLETIONS, features.EMBEDDINGS])


def taken(path: bytes, body: bytes) -> features.Features | None:
    try:
        return features.extract(path, body)
    except features.BadRequestError as exc:
        assert str(exc)
        return None


@settings(max_examples=400, deadline=None)
@given(PATHS, BODIES | JSON)
@example(features.CHAT, {"model": "m", "messages": [{"role": "user", "content": None}]})
def test_any_json_is_features_or_a_bad_request(path: bytes, body: object) -> None:
    """No JSON value makes extraction raise anything else, and the types of what comes out are right."""
    found = taken(path, orjson.dumps(body))
    if found is not None:
        assert isinstance(body, dict)
        assert found.model == body["model"]
        assert isinstance(found.text, bytes)
        assert found.stream is (body.get("stream") is True)
        assert found.max_tokens is None or found.max_tokens >= 0


@given(PATHS, st.binary(max_size=60))
def test_any_bytes_are_features_or_a_bad_request(path: bytes, body: bytes) -> None:
    """Bytes that are no JSON are a bad request."""
    taken(path, body)
    taken(path, b'{"model":"m","prompt":"' + body + b'"}')


@given(st.lists(st.tuples(st.text(max_size=10), st.text(max_size=10)), min_size=1, max_size=4), st.integers(0, 3))
def test_a_longer_conversation_begins_as_the_shorter(messages: list[tuple[str, str]], more: int) -> None:
    """The text of a conversation is a prefix of the text of its continuation: that is what routing lives on."""
    turns = [{"role": role, "content": content} for role, content in messages]
    first = features.extract(features.CHAT, orjson.dumps({"model": "m", "messages": turns}))
    longer = turns + [{"role": "user", "content": "next"}] * more
    second = features.extract(features.CHAT, orjson.dumps({"model": "m", "messages": longer}))
    assert second.text.startswith(first.text)


@pytest.mark.parametrize(
    ("prompt", "text", "is_tokens"),
    [
        ("h\u00e9", "h\u00e9".encode(), False),
        (["a", "b"], b"a\x1eb", False),
        ([1, 2], b"\x01\0\0\0\x02\0\0\0", True),
        ([[1], [4_294_967_295]], b"\x01\0\0\0\xff\xff\xff\xff", True),
    ],
)
def test_prompts_of_every_kind(prompt: object, text: bytes, is_tokens: bool) -> None:
    """Text, lists of text, token ids (four bytes each) and lists of them."""
    found = features.extract(features.COMPLETIONS, orjson.dumps({"model": "m", "prompt": prompt}))
    assert (found.text, found.is_tokens) == (text, is_tokens)
    embedded = features.extract(features.EMBEDDINGS, orjson.dumps({"model": "m", "input": prompt}))
    assert embedded.text == text


@pytest.mark.parametrize(
    "prompt", [[], [-1], [4_294_967_296], [1, "a"], ["a", 1], [1.5], {}, None, 5, [[1], 2], [[-1]], [None]]
)
def test_wrong_prompts_name_their_field(prompt: object) -> None:
    """What is no prompt is refused with the name of the field."""
    with pytest.raises(features.BadRequestError) as caught:
        features.extract(features.COMPLETIONS, orjson.dumps({"model": "m", "prompt": prompt}))
    assert caught.value.param == "prompt"


def test_tools_come_before_the_messages() -> None:
    """Tools are part of the prefix, as chat templates put them."""
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "u"}}]}
    ]
    body = {
        "model": "m",
        "messages": messages,
        "tools": [{"name": "t"}],
        "max_completion_tokens": 5,
        "max_tokens": 9,
        "user": "u",
    }
    found = features.extract(features.CHAT, orjson.dumps(body))
    assert found.text.startswith(b'[{"name":"t"}]\x1euser\x1fx\x1d{"type":"image_url"')
    assert (found.max_tokens, found.user, found.salt) == (5, "u", "")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("x", "messages[1]"),
        (None, "messages[1]"),
        ([], "messages[1]"),
        ({"content": "x"}, "messages[1].role"),
        ({"role": "user", "content": {}}, "messages[1].content"),
        ({"role": "user", "content": ["x"]}, "messages[1].content"),
    ],
)
def test_wrong_messages_name_their_place(message: object, param: str) -> None:
    """A message that is none is refused with its place in the list."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}, message]}
    with pytest.raises(features.BadRequestError) as caught:
        features.extract(features.CHAT, orjson.dumps(body))
    assert caught.value.param == param

"""`penstock chat` as a process against a server on a real socket."""

import asyncio
import pathlib
import sys

import pytest

from tests.support import scripted_engine

ROOT = pathlib.Path(__file__).parents[3]
CODE = "from controller.cli import chat; chat.chat()"
WHOLE = scripted_engine.stream(3, headers="x-penstock-endpoint: fake:1\r\n")


async def chat(*args: str, given: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CODE,
        *args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    out, err = await asyncio.wait_for(process.communicate(given.encode()), 30)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("piped", [False, True])
async def test_words_on_stdout_usage_on_stderr(piped: bool) -> None:
    """The answer alone is standard output, so that it can be piped on."""
    async with scripted_engine.ScriptedEngine(WHOLE) as server:
        args = ("--target", server.url, "--system", "be brief")
        code, out, err = await (chat(*args, given="hello") if piped else chat("hello", *args))
    assert (code, out) == (0, "w0 w1 w2 \n")
    assert "prompt tokens 10, cached 4, answer tokens 3, endpoint fake:1" in err
    body = server.received[0].json()
    assert body["model"] == "m"
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (scripted_engine.refusal("429 Too Many Requests", "busy"), "429: busy"),
        (scripted_engine.stream(1, end=False), "broke in mid-answer"),
        (scripted_engine.stream(3, error="engine died"), "engine died"),
        (scripted_engine.stream(3, done=False), "without [DONE]"),
        (scripted_engine.break_connection, "no answer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_failed_answer_says_why(answer: scripted_engine.Behaviour, words: str) -> None:
    """Exit status 1 and one line with the reason, no traceback."""
    async with scripted_engine.ScriptedEngine(answer) as server:
        code, _, err = await chat("hello", "--target", server.url)
    assert code == 1
    assert words in err
    assert "Traceback" not in err


async def test_nobody_there_is_exit_status_2() -> None:
    """The target is named."""
    async with scripted_engine.ScriptedEngine(WHOLE) as server:
        url = server.url
    code, _, err = await chat("hello", "--target", url)
    assert code == 2
    assert url.removeprefix("http://") in err

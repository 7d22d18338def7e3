"""`penstock replay` as a process against a server on a real socket."""

import asyncio
import collections
import json
import os
import pathlib
import signal
import sys
from typing import Any

import pytest

from tests.support import scripted_engine

ROOT = pathlib.Path(__file__).parents[3]
DATA = ROOT / "tests" / "data" / "traces"
MOONCAKE = (str(DATA / "mooncake_conversation.jsonl"), "--format", "mooncake")
CODE = "from controller.cli import replay; replay.replay()"
WHOLE = scripted_engine.stream(3, headers="x-penstock-endpoint: fake:1\r\n")


class AtOnce:
    """Whole streams, and how many of a session were under way at the same time at most."""

    def __init__(self) -> None:
        self.most: collections.Counter[str] = collections.Counter()
        self._now: collections.Counter[str] = collections.Counter()

    async def __call__(self, received: scripted_engine.Received) -> None:
        session = received.header("x-session-id")
        self._now[session] += 1
        self.most[session] = max(self.most[session], self._now[session])
        # Long enough that requests sent together are under way together.
        await asyncio.sleep(0.005)
        await WHOLE(received)
        self._now[session] -= 1


async def start(*args: str, env: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CODE,
        *args,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    )


async def communicated(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """Output of a process, which does not outlive a test that fails."""
    try:
        return await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()


async def replay(url: str, *args: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    process = await start(*args, "--target", url, "--speed", "1000", env=env)
    out, err = await communicated(process)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def figures(url: str, *args: str) -> tuple[int, dict[str, Any]]:
    code, out, err = await replay(url, *args, "--json", "-")
    assert out, err
    return code, json.loads(out)


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
async def test_every_row_is_answered_and_measured(endpoint: str) -> None:
    """All rows of an excerpt are sent, with the first model, their lengths and usage asked for."""
    async with scripted_engine.ScriptedEngine(WHOLE) as server:
        code, found = await figures(server.url, *MOONCAKE, "--endpoint", endpoint, "--max-tokens-cap", "100")
    assert code == 0
    assert (found["requests"], found["completed"], found["errors"]) == (60, 60, 0)
    assert found["reuse"] == pytest.approx(0.4)
    assert found["endpoints"]["fake:1"]["requests"] == 60
    for key in ("ttft_ms", "itl_ms", "e2e_ms"):
        assert found[key]["p50"] <= found[key]["p99"]
    assert found["goodput_rps"] > 0
    bodies = [each.json() for each in server.received]
    body = bodies[0]
    assert (body["model"], body["stream"], body["stream_options"]) == ("m", True, {"include_usage": True})
    assert max(each["max_tokens"] for each in bodies) == 100
    key = "messages" if endpoint == "chat" else "prompt"
    assert all(key in each for each in bodies)
    if endpoint == "chat":
        sizes = {len(each["messages"][0]["content"]) for each in bodies}
        assert 6758 * 4 in sizes


async def test_headers_carry_policy_and_key_but_output_does_not() -> None:
    """The policy and the key go to the server; the key is in no output, the table is plain without a terminal."""
    async with scripted_engine.ScriptedEngine(WHOLE) as server:
        code, out, err = await replay(
            server.url, *MOONCAKE, "--limit", "3", "--policy", "random", env={"OPENAI_API_KEY": "sesame"}
        )
    assert code == 0
    assert server.received[0].header("x-penstock-policy") == "random"
    assert server.received[0].header("authorization") == "Bearer sesame"
    assert "sesame" not in out + err
    assert "\x1b" not in out + err
    assert "TTFT" in out


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (scripted_engine.stream(1, end=False), "cut"),
        (scripted_engine.stream(3, error="engine died"), "error_event"),
        (scripted_engine.stream(3, done=False), "no_done"),
        (scripted_engine.refusal("429 Too Many Requests", "busy"), "http_429"),
        (scripted_engine.answer(), "not_a_stream"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_failed_answer_is_an_error_of_its_kind_and_not_sent_again(
    answer: scripted_engine.Behaviour, error: str
) -> None:
    """One bad answer of ten: nine completed, one error by kind, no retry, exit status 1."""
    behaviour = scripted_engine.by_number(lambda number: answer if number == 4 else WHOLE)
    async with scripted_engine.ScriptedEngine(behaviour) as server:
        code, found = await figures(server.url, *MOONCAKE, "--limit", "10")
    assert code == 1
    assert (found["completed"], found["errors_by_kind"], found["retries"]) == (9, {error: 1}, 0)
    assert len(server.received) == 10


async def test_a_connection_that_breaks_before_a_byte_is_tried_again() -> None:
    """Two broken connections are two counted retries and no error."""
    behaviour = scripted_engine.by_number(lambda number: scripted_engine.break_connection if number < 2 else WHOLE)
    async with scripted_engine.ScriptedEngine(behaviour) as server:
        code, found = await figures(server.url, *MOONCAKE, "--limit", "5")
    assert code == 0
    assert (found["completed"], found["retries"]) == (5, 2)


async def test_retries_end() -> None:
    """A server that always breaks the connection gets 1 + retries attempts, then it is an error."""
    async with scripted_engine.ScriptedEngine(scripted_engine.break_connection) as server:
        code, found = await figures(server.url, *MOONCAKE, "--limit", "1", "--retries", "1")
    assert code == 1
    assert (found["errors_by_kind"], len(server.received)) == ({"connection": 1}, 2)


async def test_a_silent_server_is_a_timeout() -> None:
    """A request without an answer ends at its time limit."""
    async with scripted_engine.ScriptedEngine(scripted_engine.never) as server:
        code, found = await figures(server.url, *MOONCAKE, "--limit", "2", "--timeout", "300ms")
    assert (code, found["errors_by_kind"]) == (1, {"timeout": 2})


async def test_interrupt_prints_what_it_has() -> None:
    """SIGINT ends the run with the figures so far and exit status 130."""
    behaviour = scripted_engine.by_number(lambda number: scripted_engine.never if number == 5 else WHOLE)
    async with scripted_engine.ScriptedEngine(behaviour) as server:
        process = await start(*MOONCAKE, "--limit", "6", "--target", server.url, "--speed", "1000", "--json", "-")
        async with asyncio.timeout(30):
            while len(server.received) < 6:
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, _ = await communicated(process)
    found = json.loads(out)
    assert process.returncode == 130
    assert found["interrupted"] is True
    # The five others were answered, though not all of them need have been read by then.
    assert set(found["errors_by_kind"]) == {"interrupted"}
    assert (found["requests"], found["completed"] + found["errors"]) == (6, 6)


@pytest.mark.parametrize("in_order", [True, False])
async def test_in_order_turns_wait_for_each_other(in_order: bool) -> None:
    """With --in-order a session has one turn under way, in order of time; without it the load stays open."""
    args = ["--in-order"] if in_order else []
    behaviour = AtOnce()
    async with scripted_engine.ScriptedEngine(behaviour) as server:
        code, found = await figures(server.url, str(DATA / "agent"), "--format", "agent", *args)
    sessions = {path.stem for path in (DATA / "agent").glob("*.jsonl")}
    assert (code, found["requests"]) == (0, 44)
    assert set(behaviour.most) == sessions
    assert (max(behaviour.most.values()) == 1) is in_order
    if in_order:
        for session in sessions:
            rows = [json.loads(line) for line in (DATA / "agent" / f"{session}.jsonl").read_text().splitlines()]
            texts = [row["input"] for row in sorted(rows, key=lambda row: row["timestamp"])]
            turns = [each.json() for each in server.received if each.header("x-session-id") == session]
            assert [each["messages"][0]["content"] for each in turns] == texts


async def test_bad_rows_are_named_and_strict_stops(tmp_path: pathlib.Path) -> None:
    """A bad row is named by file and line and the others run; --strict is exit status 2 and nothing sent."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "hello"}\nnonsense\n{"prompt": "again"}\n')
    args = (str(path), "--format", "openai-jsonl")
    async with scripted_engine.ScriptedEngine(WHOLE) as server:
        code, _, err = await replay(server.url, *args)
        assert (code, len(server.received)) == (0, 2)
        assert "rows.jsonl:2: not JSON" in err
        code, _, err = await replay(server.url, *args, "--strict")
        assert (code, len(server.received)) == (2, 2)


async def test_an_unreachable_target_is_exit_status_2() -> None:
    """Nothing listens: one line that names the target, no traceback."""
    async with scripted_engine.ScriptedEngine(WHOLE) as server:
        url = server.url
    code, _, err = await replay(url, *MOONCAKE)
    assert code == 2
    assert url.removeprefix("http://") in err
    assert "Traceback" not in err


async def test_html_report_is_written(tmp_path: pathlib.Path) -> None:
    """--html leaves a page with plots."""
    page = tmp_path / "report.html"
    async with scripted_engine.ScriptedEngine(WHOLE) as server:
        code, _, _ = await replay(server.url, *MOONCAKE, "--html", str(page), "--slo", "ttft=1s")
    assert code == 0
    assert page.read_text().count("<svg") == 5

"""Readers on excerpts of the real traces, and on rows that cannot be used."""

import itertools
import pathlib

import pytest

from penstock.workload import formats, options, request

DATA = pathlib.Path(__file__).parents[2] / "data" / "traces"
EXCERPTS = {
    "mooncake": ("mooncake_conversation.jsonl", 60),
    "azure": ("azure_2023_code.csv", 100),
    "servegen": ("servegen", None),
    "agent": ("agent", 44),
}


def read(
    path: pathlib.Path, name: str, errors: request.RowErrors | None = None, **opts: object
) -> list[request.TraceRequest]:
    return list(formats.read(path, name, options.ReadOptions.model_validate(opts), errors or request.RowErrors(True)))


@pytest.mark.parametrize("name", EXCERPTS)
def test_excerpt_is_read_in_order_of_arrival_from_zero(name: str) -> None:
    """Every row of a real excerpt is used, the first arrives at 0, none before the one before it."""
    path, count = EXCERPTS[name]
    found = read(DATA / path, name)
    assert count is None or len(found) == count
    assert found[0].arrival_s == 0
    assert all(a.arrival_s <= b.arrival_s for a, b in itertools.pairwise(found))
    assert all(each.input_tokens >= 1 for each in found)


def test_mooncake_row_is_as_the_file_says() -> None:
    """Lengths, block ids and line come from the row."""
    first = min(read(DATA / "mooncake_conversation.jsonl", "mooncake", raw_times=True), key=lambda each: each.line)
    assert (first.input_tokens, first.output_tokens, first.line) == (6758, 500, 1)
    assert first.block_ids == tuple(range(14))
    assert first.block_tokens == 512


def test_mooncake_ticks_are_spread_and_raw_times_are_not() -> None:
    """Requests of one tick get times of their own within it, in the file's order."""
    raw = read(DATA / "mooncake_conversation.jsonl", "mooncake", raw_times=True)
    spread = read(DATA / "mooncake_conversation.jsonl", "mooncake")
    assert len({each.arrival_s for each in raw}) < len(raw) / 2
    assert len({each.arrival_s for each in spread}) == len(spread)
    assert [each.line for each in raw] == [each.line for each in spread]
    offsets = [b.arrival_s - a.arrival_s for a, b in zip(raw, spread, strict=True)]
    assert max(offsets) - min(offsets) <= 6.1


def test_azure_seconds_keep_their_fraction() -> None:
    """The second row of the code trace comes 52 ms after the first."""
    found = read(DATA / "azure_2023_code.csv", "azure")
    assert found[1].arrival_s == pytest.approx(0.052, abs=1e-6)
    assert (found[0].input_tokens, found[0].output_tokens) == (4808, 10)


def test_servegen_makes_each_windows_own_number_of_requests() -> None:
    """A window of rate r yields round(600 r) arrivals inside it, and the seed alone decides when."""
    path = DATA / "servegen" / "chunk-49-trace.csv"
    rates = [float(line.split(",")[1]) for line in path.read_text().splitlines()]
    found = read(path, "servegen")
    assert len(found) == sum(round(rate * 600) for rate in rates)
    assert [each.arrival_s for each in found] == [each.arrival_s for each in read(path, "servegen")]
    assert [each.arrival_s for each in found] != [each.arrival_s for each in read(path, "servegen", seed=1)]
    first = [each for each in found if each.line == 1]
    assert len(first) == round(rates[0] * 600)
    assert first[-1].arrival_s < 600


def test_agent_sessions_begin_at_other_times_for_each_seed() -> None:
    """A session's turns move together, at most as far as asked, by the seed; without a shift they keep their times."""
    own = {(each.source, each.line): each for each in read(DATA / "agent", "agent")}
    moved = [
        {
            (each.source, each.line): each.arrival_s
            for each in read(DATA / "agent", "agent", session_shift_s=60, seed=seed)
        }
        for seed in (1, 2, 1)
    ]
    assert moved[0] == moved[2] != moved[1]
    shifts: dict[str | None, set[float]] = {}
    for key, each in own.items():
        shifts.setdefault(each.session, set()).add(round(moved[0][key] - each.arrival_s, 6))
    # The first arrival of the whole is at 0 both times, so a shift is known but for that.
    assert all(len(found) == 1 for found in shifts.values())
    every = [min(found) for found in shifts.values()]
    assert max(every) - min(every) <= 60
    assert len({min(found) for found in shifts.values()}) == len(shifts) > 1


def test_agent_turns_of_a_session_are_in_order_of_time() -> None:
    """Lines out of order in the file become turns in order, with the whole text."""
    found = read(DATA / "agent" / "0c6629b0a328cc379ad0e3a62b0353bb.jsonl", "agent")
    assert [each.line for each in found][:2] == [2, 1]
    assert found[0].text == "Hi! How can I help you today?"
    assert len({each.session for each in found}) == 1


def test_openai_rows_keep_their_body_and_time(tmp_path: pathlib.Path) -> None:
    """The body is the row without its timestamp; a row without one follows at the chosen rate."""
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"timestamp": 100.5, "model": "a", "messages": [{"role": "user", "content": "12345678"}], "max_tokens": 7}\n'
        '{"prompt": [1, 2, 3]}\n'
    )
    first, second = read(path, "openai-jsonl", rate_rps=4.0)
    assert first.body == {"model": "a", "messages": [{"role": "user", "content": "12345678"}], "max_tokens": 7}
    assert (first.input_tokens, first.output_tokens) == (2, 7)
    assert (second.arrival_s, second.input_tokens) == (0.25, 3)


GOOD = {
    "mooncake": '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}',
    "azure": "2023-11-16 18:17:03.9799600,4808,10",
    "servegen": "0,0.01,1,Gamma,1,1",
    "agent": '{"timestamp": 1, "input": "hi", "output": "", "session_id": "s"}',
    "openai-jsonl": '{"prompt": "hi"}',
}
BAD = [
    ("mooncake", "nonsense", "not JSON"),
    ("mooncake", "[1]", "not a JSON object"),
    ("mooncake", '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1]}', "need 2 blocks"),
    ("mooncake", '{"timestamp": -1, "input_length": 1, "output_length": 5, "hash_ids": [1]}', "'timestamp'"),
    ("mooncake", '{"timestamp": 0, "input_length": true, "output_length": 5, "hash_ids": [1]}', "'input_length'"),
    ("mooncake", '{"timestamp": 0, "input_length": 1, "output_length": 1.5, "hash_ids": [1]}', "'output_length'"),
    ("azure", "yesterday,1,1", "'TIMESTAMP'"),
    ("azure", "2023-11-16 18:17:03,many,1", "'ContextTokens'"),
    ("azure", "2023-11-16 18:17:03,1", "2 fields, 3 are needed"),
    ("servegen", "0,1,1,Pareto,1,1", "Pareto"),
    ("servegen", "0,1,1,Gamma,0,1", "shape"),
    ("servegen", "0,x,1,Gamma,1,1", "not a number"),
    ("servegen", "10,1,1,Gamma,1,1", "overlaps"),
    ("agent", '{"timestamp": 1, "output": "", "session_id": "s"}', "'input'"),
    ("agent", '{"timestamp": 1, "input": "", "output": "", "session_id": "s"}', "empty"),
    ("openai-jsonl", '{"model": "a"}', "neither"),
    ("openai-jsonl", '{"prompt": "hi", "max_tokens": "many"}', "'max_tokens'"),
]


@pytest.mark.parametrize(("name", "row", "reason"), BAD)
def test_a_bad_row_is_named_counted_and_left_out(tmp_path: pathlib.Path, name: str, row: str, reason: str) -> None:
    """The file, the line and the reason are told, the good rows are used; strict stops there."""
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n" if name == "azure" else ""
    path = tmp_path / "chunk-0-trace.csv"
    path.write_text(f"{head}{GOOD[name]}\n{row}\n")
    errors = request.RowErrors()
    found = read(path, name, errors)
    assert {each.line for each in found} == {3 - 1 if head else 1}
    assert errors.count == 1
    assert (errors.first[0].source, errors.first[0].line) == (path.name, 3 if head else 2)
    assert reason in errors.first[0].reason
    with pytest.raises(request.TraceError, match="chunk-0-trace.csv"):
        read(path, name, request.RowErrors(strict=True))


def test_a_prompt_is_never_in_the_reason(tmp_path: pathlib.Path) -> None:
    """A row that fails names its key, not the text it holds."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": {"secret": "words"}}\n{"prompt": "hi"}\n')
    errors = request.RowErrors()
    read(path, "openai-jsonl", errors)
    assert "words" not in str(errors.first[0])


@pytest.mark.parametrize("name", ["mooncake", "nope"])
def test_nothing_to_replay_is_an_error(tmp_path: pathlib.Path, name: str) -> None:
    """An empty trace, a missing file and an unknown format are told apart by their message."""
    path = tmp_path / "t.jsonl"
    path.write_text("")
    with pytest.raises(request.TraceError, match="no request" if name == "mooncake" else "known are mooncake"):
        read(path, name)
    with pytest.raises(request.TraceError):
        read(tmp_path / "missing.jsonl", name)
    with pytest.raises(request.TraceError):
        read(tmp_path / "empty", name)


def test_start_and_duration_cut_the_trace() -> None:
    """Only what arrives in the chosen time is read, counted from its first request."""
    whole = read(DATA / "azure_2023_code.csv", "azure")
    part = read(DATA / "azure_2023_code.csv", "azure", start_s=10.0, duration_s=20.0)
    assert [each.line for each in part] == [each.line for each in whole if 10 <= each.arrival_s < 30]
    assert part[0].arrival_s == 0

"""`penstock simulate` and `penstock simulate compare`."""

from __future__ import annotations

import json
import pathlib
from html import parser

import click.testing
import pytest

from controller.cli import main as cli
from penstock import perf

TRACE = [
    {
        "timestamp": number // 4 * 1600,
        "input_length": 2048,
        "output_length": 30,
        "hash_ids": [0, *(number % 5 * 10 + k for k in (1, 2, 3))],
    }
    for number in range(60)
]


@pytest.fixture
def trace(tmp_path: pathlib.Path) -> str:
    """A small trace in Mooncake's format."""
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TRACE))
    return str(path)


def call(*args: str) -> click.testing.Result:
    """Runs `penstock simulate` with these arguments."""
    return click.testing.CliRunner().invoke(cli.main, ["simulate", *args])


def test_json_has_the_keys_of_a_replay_and_more(trace: str) -> None:
    """Without a file JSON goes to standard output, and nothing else does."""
    result = call("--trace", trace, "--format", "mooncake", "--workers", "2", "--blocks-per-worker", "50", "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.output)
    replay = {"requests", "completed", "reuse", "ttft_ms", "itl_ms", "e2e_ms", "goodput_rps", "endpoints", "wall_s"}
    assert figures.keys() >= replay | {
        "worker_seconds",
        "joules",
        "preemptions",
        "imbalance",
        "reuse_blocks",
        "classes",
    }
    assert figures["requests"] == figures["completed"] == 60
    assert set(figures["endpoints"]) == {"w-0", "w-1"}
    assert figures["reuse_blocks"] > 0.5


def test_flags_go_before_the_scenario(trace: str, tmp_path: pathlib.Path) -> None:
    """What a flag says replaces what the file says; the rest stays."""
    told = tmp_path / "s.yaml"
    told.write_text("trace: {path: t.jsonl, format: mooncake}\nspeed: 4\nfleet: {models: [{pools: [{workers: 3}]}]}\n")
    both = json.loads(call(str(told), "--speed", "2", "--json").output)
    assert len(both["endpoints"]) == 3
    assert both["wall_s"] == pytest.approx(12, abs=1)
    short = json.loads(call(str(told), "--limit", "10", "--policy", "round-robin", "--json").output)
    assert short["requests"] == 10
    assert sorted(each["requests"] for each in short["endpoints"].values()) == [3, 3, 4]


class _Tags(parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_report_needs_nothing_else(trace: str, tmp_path: pathlib.Path) -> None:
    """One page with plots and a heat map of the workers, without scripts and references."""
    page = tmp_path / "r.html"
    result = call("--trace", trace, "--format", "mooncake", "--workers", "2", "--html", str(page))
    assert result.exit_code == 0, result.output
    assert "reuse (leading blocks)" in result.output
    tags = _Tags()
    tags.feed(page.read_text())
    assert not [tag for tag, attrs in tags.seen if tag in ("script", "link", "img") or {"src", "href"} & attrs.keys()]
    labels = [attrs.get("aria-label") for tag, attrs in tags.seen if tag == "svg"]
    assert "worker by s since the start" in labels
    assert sum("TTFT" in str(label) or "share" in str(label) for label in labels) >= 4
    assert [attrs for tag, attrs in tags.seen if tag == "rect" and attrs["class"] == "heat"]


def test_policies_are_compared_on_the_same_arrivals(trace: str) -> None:
    """Each has means and intervals over the seeds; the first differs from itself by nothing."""
    args = (
        "--trace",
        trace,
        "--format",
        "mooncake",
        "--workers",
        "2",
        "--blocks-per-worker",
        "40",
        "--seeds",
        "3",
        "--speed",
        "40",
    )
    result = call("compare", "default", "round-robin", *args, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["seeds"] == [0, 1, 2]
    ours, turns = (found["policies"][name]["ttft_mean_ms"] for name in ("default", "round-robin"))
    assert ours["difference"] == {"mean": 0, "ci95": 0}
    assert turns["difference"]["mean"] == pytest.approx(turns["mean"] - ours["mean"])
    assert turns["ci95"] > 0
    shown = call("compare", "default", "round-robin", *args)
    assert "round-robin" in shown.output
    assert "±" in shown.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "names no workload"),
        (("--limit", "3"), "--limit is for traces"),
        (("compare", "best", "--limit", "3"), "--limit is for traces"),
    ],
)
def test_wrong_use_is_explained(args: tuple[str, ...], message: str) -> None:
    """Exit status 2 and one line that says what is missing."""
    result = call(*args)
    assert result.exit_code == 2
    assert message in result.output


def test_an_unknown_policy_lists_those_there_are(trace: str) -> None:
    """The message names the allowed profiles."""
    result = call("compare", "best", "--trace", trace, "--format", "mooncake")
    assert result.exit_code == 2
    assert "round-robin" in result.output


def test_failed_requests_are_an_exit_status(tmp_path: pathlib.Path) -> None:
    """1 where a request could not be answered."""
    path = tmp_path / "t.jsonl"
    row = {"timestamp": 0, "input_length": 5120, "output_length": 3, "hash_ids": list(range(10))}
    path.write_text(json.dumps(row) + "\n")
    result = call("--trace", str(path), "--format", "mooncake", "--blocks-per-worker", "5")
    assert result.exit_code == 1
    assert "http_400" in result.output


def scenario_with(tmp_path: pathlib.Path, text: str) -> str:
    """A scenario beside the trace `t.jsonl`."""
    path = tmp_path / "s.yaml"
    path.write_text(f"trace: {{path: t.jsonl, format: mooncake}}\n{text}")
    return str(path)


def test_a_policy_by_flag_is_for_every_model(trace: str, tmp_path: pathlib.Path) -> None:
    """Also where the scenario gives a model one of its own, and in a comparison."""
    told = scenario_with(tmp_path, "fleet: {models: [{policy: round-robin, pools: [{workers: 3, kv_blocks: 90}]}]}\n")
    own = json.loads(call(told, "--json").output)
    other = json.loads(call(told, "--policy", "default", "--json").output)
    assert own["reuse_blocks"] < other["reuse_blocks"]
    found = json.loads(call("compare", "default", "round-robin", "--scenario", told, "--seeds", "1", "--json").output)
    reuse = {name: each["reuse_blocks"]["mean"] for name, each in found["policies"].items()}
    assert reuse == {"default": other["reuse_blocks"], "round-robin": own["reuse_blocks"]}


def test_a_profile_by_flag_is_the_pools(trace: str, tmp_path: pathlib.Path) -> None:
    """Also where the pool names its own."""
    told = scenario_with(tmp_path, "fleet: {models: [{pools: [{profile: cpu-tiny, workers: 2, kv_blocks: 90}]}]}\n")
    slow = json.loads(call(told, "--json").output)["ttft_ms"]["mean"]
    assert json.loads(call(told, "--profile", "h200-llama3.1-8b-fp8", "--json").output)["ttft_ms"]["mean"] != slow


def test_raw_times_leave_what_else_the_scenario_says_of_reading(trace: str, tmp_path: pathlib.Path) -> None:
    """A part of the trace stays a part of it."""
    told = tmp_path / "s.yaml"
    told.write_text("trace: {path: t.jsonl, format: mooncake, reading: {duration_s: 4}}\n")
    asked = [json.loads(call(str(told), *flags, "--json").output)["requests"] for flags in ((), ("--raw-times",))]
    assert 0 < asked[1] <= asked[0] + 4 < 30


def test_a_file_that_cannot_be_written_is_said_first(trace: str, tmp_path: pathlib.Path) -> None:
    """Before anything is played: the message names the folder that is not there."""
    for option in ("--json", "--html"):
        refused = call("--trace", trace, "--format", "mooncake", option, str(tmp_path / "no" / "file"))
        assert refused.exit_code == 2 and "there is no folder" in refused.output
    refused = call("compare", "default", "--trace", trace, "--format", "mooncake", "--json", str(tmp_path))
    assert refused.exit_code == 2 and "cannot be written" in refused.output


def test_targets_by_flag_are_for_one_class(trace: str, tmp_path: pathlib.Path) -> None:
    """A class keeps its name; with several the flag is refused, with their names."""
    one = scenario_with(tmp_path, "classes: [{name: chat, ttft_ms: 1}]\n")
    found = json.loads(call(one, "--slo", "e2e=100s", "--json").output)
    assert found["classes"]["chat"]["attained"] == 1.0
    two = scenario_with(tmp_path, "classes: [{name: chat, share: 0.5}, {name: batch, share: 0.5}]\n")
    refused = call(two, "--slo", "e2e=100s")
    assert refused.exit_code == 2 and "this one has chat, batch" in refused.output


def test_a_key_twice_is_refused(trace: str, tmp_path: pathlib.Path) -> None:
    """The message names the key and where it is."""
    refused = call(scenario_with(tmp_path, "speed: 1\nspeed: 2\n"))
    assert refused.exit_code == 2 and "the key 'speed' is there twice" in refused.output and "line 3" in refused.output
    merged = "classes:\n- &chat {name: chat, ttft_ms: 100}\n- {<<: *chat, name: batch}\n"
    assert call(scenario_with(tmp_path, merged), "--limit", "5").exit_code == 0, "what is merged may be written again"


def test_a_profile_is_beside_the_scenario(trace: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the trace is, wherever the command is run."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (tmp_path / "mine.json").write_text(perf.load_profile("cpu-tiny").model_dump_json())
    told = scenario_with(tmp_path, "fleet: {models: [{profile: mine.json, pools: [{workers: 2, kv_blocks: 90}]}]}\n")
    assert call(told, "--limit", "5").exit_code == 0


def test_a_comparison_tells_of_requests_that_failed(trace: str, tmp_path: pathlib.Path) -> None:
    """Its exit status is 1, and how many completed is in the table."""
    told = scenario_with(
        tmp_path,
        "faults: [{kind: kill, worker: 0, at_s: 2, restart: false}]\nfleet: {models: [{pools: [{workers: 1}]}]}\n",
    )
    result = call("compare", "default", "--scenario", told, "--seeds", "1")
    assert result.exit_code == 1 and "completed" in result.output

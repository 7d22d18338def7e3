"""`penstock simulate` and `penstock simulate compare`."""

from __future__ import annotations

import json
import pathlib
from html import parser

import click.testing
import pytest

from controller.cli import main as cli

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

"""The documents name what the code has: dependencies, metrics, profiles, modes, commands, formats, files."""

from __future__ import annotations

import asyncio
import pathlib
import re
import tomllib

import click
import pytest

from controller.cli import main as cli
from penstock import perf
from penstock.api import errors
from penstock.api.crds import modeldeployment
from penstock.runtime import clock as clocks
from penstock.workload import formats
from power import sampling
from router.dataplane import fleet, gateway
from router.index import prefix
from router.policy import profiles, scorers
from router.policy import types as policy_types
from router.server import degraded, metrics
from tests.support import examples, policies

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def page(name: str) -> str:
    """The text of one page."""
    return (ROOT / "docs" / name).read_text()


def first_cells(text: str) -> list[str]:
    """The names in backquotes that begin the rows of a page's tables."""
    return re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)


def test_every_dependency_has_a_line() -> None:
    """docs/dependencies.md has one row for each dependency of pyproject.toml, and none for others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    specs = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    for extra, more in project["project"]["optional-dependencies"].items():
        if extra != "all":
            specs += more
    wanted = {re.split(r"[\[<>=!~; ]", spec)[0] for spec in specs}
    rows = first_cells(page("dependencies.md"))
    assert len(wanted) > 20
    assert sorted(rows) == sorted(wanted)


def test_every_metric_of_the_gateway_is_explained() -> None:
    """docs/routing.md has one row for each family that /metrics prints, and none for others."""
    loop = asyncio.new_event_loop()
    try:
        endpoints = fleet.Fleet(prefix.PrefixIndex(1 << 20), lambda record: pytest.fail("no endpoint is added"))
        owner = gateway.Gateway(loop, endpoints, profiles.by_name("default"), gateway.Limits(), "gw")
        text = metrics.render(owner, degraded.Degraded(clocks.SystemClock())).decode()
    finally:
        loop.close()
    printed = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    rows = [name for name in first_cells(page("routing.md")) if name.startswith(metrics.PREFIX)]
    assert len(printed) > 15
    assert sorted(rows) == sorted(printed)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("routing.md", list(profiles.names())),
        ("routing.md", list(degraded.MODES)),
        ("routing.md", [str(reason) for reason in errors.Reason]),
        ("nodes.md", list(sampling.MODES)),
        ("nodes.md", ["nvml", "rapl"]),
        ("cli.md", list(formats.READERS)),
        ("workers.md", perf.list_profiles()),
    ],
    ids=["profiles", "modes", "errors", "modes of nodes", "meters", "formats", "engine profiles"],
)
def test_every_name_has_a_row(name: str, wanted: list[str]) -> None:
    """What the code knows by name has a row in the page that explains it."""
    rows = first_cells(page(name))
    assert wanted
    assert [each for each in wanted if each not in rows] == []


def test_every_command_has_a_section() -> None:
    """docs/cli.md has a section for each command of `penstock`, and none for others."""
    found = re.findall(r"^## `penstock ([a-z]+)`", page("cli.md"), re.MULTILINE)
    assert sorted(found) == sorted(cli.main.list_commands(click.Context(cli.main)))


def test_pages_show_the_example_of_the_readme() -> None:
    """The e2e applies what pages show; installing is shown with one example, and each is one that the type takes."""
    assert examples.example("docs/install.md") == examples.example()
    for each in examples.PAGES:
        modeldeployment.ModelDeployment.read(examples.example(each) | {"metadata": {"name": "tiny", "namespace": "n"}})


def test_links_lead_somewhere() -> None:
    """Each relative link of a page names a file that is there, and a heading of it."""
    assert len(PAGES) > 5
    for path in PAGES:
        text = re.sub(r"`[^`\n]*`", "", path.read_text())
        for link in _LINK.findall(text):
            if "://" in link or link.startswith("mailto:"):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{path.name}: {link}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
                assert anchor in slugs, f"{path.name}: {link}"


def test_the_worked_example_of_the_default_is_right() -> None:
    """The figures in docs/routing.md are those that the scorers give."""
    speed = perf.speed_of(perf.load_profile("h100-llama3.1-8b"))
    near, idle = policy_types.Endpoint("near", 0, speed), policy_types.Endpoint("idle", 1, speed)
    near.queued_ms, near.running, near.kv_tokens, near.busy_ms = 250.0, 8, 40_000, 3_000.0
    idle.running, idle.kv_tokens = 2, 4_000
    pair, matched = [near, idle], [6_000, 0]
    seen = policies.observed(pair)
    near.evicts = idle.evicts = True
    seen.followers_per_ms = 0.004
    asked = policy_types.Request(8_000, [], None, None)
    table = re.search(r"^\| component .*?\n\n", page("routing.md"), re.MULTILINE | re.DOTALL)
    assert table is not None
    rows = {
        "wait_ms": scorers.wait_ms(asked, seen, pair),
        "prefill_ms": scorers.prefill_ms(asked, pair, matched),
        "stream_ms": scorers.stream_ms(asked, seen, pair),
        "stall_ms": scorers.stall_ms(asked, seen, pair, matched),
        "delay_ms": scorers.delay_ms(asked, seen, pair, matched),
        "evict_ms": scorers.evict_ms(asked, pair, matched),
    }
    for name, values in rows.items():
        assert f"| `{name}` | {values[0]:.1f} | {values[1]:.1f} |" in table[0]
    totals = [sum(values) for values in zip(*rows.values(), strict=True)]
    assert f"| total | **{totals[0]:.1f}** | {totals[1]:.1f} |" in table[0]

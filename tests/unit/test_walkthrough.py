"""docs/walkthrough.md is what its script runs now: its commands, and the words of ours in what they answer."""

from __future__ import annotations

import ast
import pathlib
import re
from typing import Any

import yaml

from tests.cluster import tools
from tests.e2e.cluster import installed, walk
from tests.support import charts, examples

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "walkthrough.md").read_text()
STEPS = (
    walk.install, walk.no_room, walk.no_image, walk.no_redis, walk.no_rights, walk.wrong_setting, walk.leave,
)  # fmt: skip
# Of a sentence of ours so many letters must be in the source: the rest are names, figures and Kubernetes' own words.
_LETTERS = 10


class Services(tools.Tools):
    """A cluster that has nothing but Services."""

    def __init__(self) -> None:
        """Nothing is called."""

    def get(self, *args: str) -> Any:
        """A Service."""
        assert args[0] == "service", args
        return {"spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}}


class Told(walk.Walk):
    """A walk that only says what it would run."""

    def run(self, command: str, *, keep: str = "", lines: int = 30, timeout_s: float = 240) -> str:
        """Nothing is run."""
        self.page.append(f"\n```console\n$ {command.replace(f'{ROOT}/', '')}\n```\n")
        return ""

    def until(self, what: str, done: Any) -> None:
        """Nothing is waited for."""


def blocks(page: str) -> list[tuple[str, list[str]]]:
    """Each command of a page, with the lines of its answer."""
    found = re.findall(r"```console\n\$ (.*?)\n(.*?)```", page, re.DOTALL)
    return [(re.sub(r"\b10(\.\d+){3}\b", "IP", command), answer.splitlines()) for command, answer in found]


def answers(to: str) -> list[str]:
    """All lines that commands of this beginning or with these words have answered."""
    found = [line for command, lines in blocks(PAGE) if to in command for line in lines]
    assert found, f"nothing answers {to}"
    return found


def sentences(*folders: str) -> list[re.Pattern[str]]:
    """What the source of some folders can say, with anything where it puts something in."""
    found = []
    for path in (each for folder in folders for each in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            parts: list[Any] = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [each.value if isinstance(each, ast.Constant) else None for each in parts]
            said = "".join(each for each in texts if isinstance(each, str))
            if sum(map(str.isalpha, said)) >= _LETTERS:
                pattern = "".join(re.escape(each) if isinstance(each, str) else ".*" for each in texts)
                found.append(re.compile(re.sub(r"\\{[a-z]+\\}", ".*", pattern)))
    return found


def test_the_page_has_the_commands_of_the_script(tmp_path: pathlib.Path) -> None:
    """Each command of the walk stands in the page, in its order, and no other; so do the headings and the words between."""
    told = Told(Services(), tmp_path)
    for step in STEPS:
        step(told)
    wanted = "".join(told.page)
    assert [command for command, _ in blocks(PAGE)] == [command for command, _ in blocks(wanted)]
    words = re.compile(r"```console\n.*?```\n", re.DOTALL)
    assert words.sub("", PAGE).split() == words.sub("", wanted).split()


def test_the_page_shows_the_example_of_the_readme() -> None:
    """What the walk applies is what the README applies."""
    assert yaml.safe_load("\n".join(answers("cat tiny.yaml"))) == examples.example()


def test_what_the_doctor_says_is_what_it_can_say() -> None:
    """Findings of the page, and the steps that mend them, are sentences of `penstock doctor` and of the operator."""
    own, operators = sentences("controller/doctor"), sentences("operators")
    findings, steps = 0, 0
    lines = answers("penstock doctor")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if mend := re.match(r" +-> (.*)", line):
            steps += 1
            prose = re.match(r" +# (.*)", following)
            shown = mend[1] + (f"  # {prose[1]}" if prose else "")
            assert any(each.fullmatch(shown) for each in own), shown
        elif finding := re.match(r"(?:ERROR|WARN) +(\w+): (.*)", line):
            findings += 1
            # What it quotes of conditions and Pods is Kubernetes' own, but for the step.
            cause, _, step = finding[2].partition(" -> ")
            quotes = re.match(r"(worker )?[\w-]+/[\w-]+: \w+: |\w+: \d+ of \d+ ready: ", cause)
            assert quotes or any(each.fullmatch(cause) for each in own), cause
            assert not step or any(each.fullmatch(step) for each in operators), step
    assert findings > 10 and steps == findings


def test_reasons_of_conditions_and_events_are_those_of_the_operator() -> None:
    """`kubectl describe md` of the page names reasons that the operator has, and steps that it can give."""
    source = "\n".join(each.read_text() for each in sorted((ROOT / "operators").rglob("*.py")))
    said = answers("describe md")
    reasons = {match[1] for each in said if (match := re.match(r" +(?:Reason: +|Normal +|Warning +)(\w+)", each))}
    assert len(reasons) > 4
    assert [each for each in sorted(reasons) if each not in source and each != "Reason"] == []
    can = sentences("operators")
    for step in {each.partition(" -> ")[2].strip() for each in said if " -> " in each}:
        assert any(each.fullmatch(step) for each in can), step


def test_the_columns_of_the_status_are_those_of_the_command() -> None:
    """Tables of `penstock status` in the page have the columns that it has."""
    source = "\n".join(each.read_text() for each in sorted((ROOT / "controller").rglob("*.py")))
    heads = [each for each in answers("penstock status") if re.match(r"(gateway|worker)  ", each)]
    assert len(heads) > 2
    columns = {column for each in heads for column in re.split(r"  +", each)}
    assert [each for each in sorted(columns) if f'"{each}"' not in source] == []


def test_what_the_page_says_stays_is_what_the_chart_keeps() -> None:
    """`helm uninstall` of the page names the objects that the chart of now tells Helm to keep."""
    mode = installed.VALUES["agents"]["tls"]["mode"]
    made = charts.template(f"agents.tls.mode={mode}", release="penstock", namespace="penstock")
    kept = [each for each in made if "helm.sh/resource-policy" in each["metadata"].get("annotations", {})]
    assert kept
    shown = [each for each in answers("helm uninstall") if each.startswith("[")]
    assert sorted(shown) == sorted(f"[{each['kind']}] {each['metadata']['name']}" for each in kept)

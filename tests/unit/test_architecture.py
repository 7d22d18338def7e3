"""docs/architecture.md and the import contracts of pyproject.toml say the same."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).parents[2]
_SECTION = re.compile(r"^## Who may import whom\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_CONTRACT = re.compile(r"^### (?P<name>.+?)\n(?P<before>.*?)```text\n(?P<body>.*?)```", re.MULTILINE | re.DOTALL)
# What the text can say; a contract that uses anything else has to be taught here and there.
_KEYS = {"id", "name", "type", "layers", "source_modules", "forbidden_modules", "allow_indirect_imports"}


@dataclasses.dataclass(frozen=True)
class Contract:
    """A contract as both places give it."""

    name: str
    kind: str
    layers: tuple[frozenset[str], ...] = ()
    modules: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()
    direct: bool = False


def in_project(text: str) -> list[Contract]:
    """The contracts of pyproject.toml, in order."""
    found = []
    for item in tomllib.loads(text)["tool"]["importlinter"]["contracts"]:
        assert not set(item) - _KEYS, f"{item['name']}: {set(item) - _KEYS} is nothing that the text can say"
        found.append(
            Contract(
                item["name"],
                item["type"],
                tuple(_names(layer, "|") for layer in item.get("layers", ())),
                frozenset(item.get("source_modules", ())),
                frozenset(item.get("forbidden_modules", ())),
                item.get("allow_indirect_imports", False),
            )
        )
    return found


def in_docs(text: str) -> list[Contract]:
    """The contracts of the section "Who may import whom", in order."""
    section = _SECTION.search(text)
    assert section is not None, 'docs/architecture.md has no section "Who may import whom"'
    found = []
    for match in _CONTRACT.finditer(section[1]):
        kind, *lines = match["body"].strip().splitlines()
        if kind == "layers":
            found.append(Contract(match["name"], kind, tuple(_names(line, "|") for line in lines)))
            continue
        assert kind == "modules", f"{match['name']}: begins with {kind!r}, not with layers or modules"
        sources, verb, targets = lines
        assert verb in ("never import", "never import, directly"), f"{match['name']}: {verb!r}"
        found.append(
            Contract(
                match["name"], "forbidden", (), _names(sources, ","), _names(targets, ","), verb.endswith("directly")
            )
        )
    return found


def _names(line: str, separator: str) -> frozenset[str]:
    return frozenset(name.strip() for name in line.split(separator))


def test_docs_give_the_contracts() -> None:
    """The text names every contract, with the same layers and modules, in the same order."""
    project = in_project((ROOT / "pyproject.toml").read_text())
    docs = in_docs((ROOT / "docs" / "architecture.md").read_text())
    assert len(project) >= 5
    assert docs == project


def test_a_difference_is_seen() -> None:
    """A module that is in one of the two only makes them unequal."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    changed = text.replace("asyncio, time, random", "asyncio, time", 1)
    assert changed != text
    assert in_docs(changed) != in_docs(text)
    swapped = text.replace("router.server\nrouter.dataplane", "router.dataplane\nrouter.server", 1)
    assert swapped != text
    assert in_docs(swapped) != in_docs(text)


def test_every_package_is_in_a_layer() -> None:
    """No top-level package is outside the contracts."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layered = set().union(*(_names(layer, "|") for layer in settings["contracts"][0]["layers"]))
    assert layered == set(settings["root_packages"])
    outside = {"tests", "benchmarks"}
    present = {path.parent.name for path in ROOT.glob("*/__init__.py")} - outside
    assert present == layered

"""Generates docs/configuration.md from the settings types; `--check` fails where what is committed differs.

Run from the repository's root with the development environment.
"""

from __future__ import annotations

import importlib
import pathlib
import sys
from typing import Any

import pydantic

from penstock.runtime import settings

OUT = pathlib.Path("docs/configuration.md")
# Component (the part of its environment variables' names), module, class, how it is started.
COMPONENTS = (
    ("gateway", "router.server.settings", "GatewaySettings", "python -m router.server"),
    ("controller", "controller.settings", "ControllerSettings", "python -m controller"),
    ("operator", "operators.settings", "OperatorSettings", "python -m operators"),
    ("node", "power.settings", "NodeSettings", "python -m power"),
)
# Heading, module, class, what it is: settings of an engine, which come with the worker's specification.
ENGINES = (
    (
        "engine sim",
        "workers.sim.settings",
        "SimSettings",
        "`--engine-set KEY=VALUE`, or flags of `python -m workers.sim`.",
    ),
    ("engine vllm", "workers.vllm.process", "VllmSettings", "`--engine-set KEY=VALUE`."),
)
# The types of a simulation's scenario, the whole first.
SCENARIO = (
    "Scenario", "Fleet", "Model", "Pool", "Gateways", "SloClass", "Trace", "ReadOptions", "Clients", "PrefixGroups",
    "Conversations", "Lengths", "ColdStart", "Kill", "Slow", "SlowLink", "Hang", "Drain", "Join", "Partition", "EventLoss",
)  # fmt: skip
HEAD = """# Configuration reference

Generated from the settings types by `python tools/configdoc.py`; do not edit.

Each process reads a YAML file (`--config FILE`), then environment variables, then flags; a later source wins. The file
may carry `version: 1`. An unknown key, in the file or under the component's prefix in the environment, ends the start
with a message that names it. Lists in the environment are comma-separated or YAML (`[a, b]`).
"""


def render() -> str:
    """The page."""
    sys.path.insert(0, ".")
    parts = [HEAD]
    for component, module, name, command in COMPONENTS:
        cls = getattr(importlib.import_module(module), name)
        parts.append(f"\n## {component}\n\n`{command}`. {' '.join((cls.__doc__ or '').split())}\n")
        parts.append("\n| key | environment | type | default | meaning |\n|---|---|---|---|---|\n")
        for row in settings.describe(cls, component):
            parts.append(_line(_code(row.key), _code(row.env), _code(row.type), _code(row.default), row.description))
    for heading, module, name, text in ENGINES:
        cls = getattr(importlib.import_module(module), name)
        parts.append(f"\n## {heading}\n\n{text} {' '.join((cls.__doc__ or '').split())}\n")
        parts.append("\n| key | type | default | meaning |\n|---|---|---|---|\n")
        for row in settings.describe(cls, "engine"):
            parts.append(_line(_code(row.key), _code(row.type), _code(row.default), row.description))
    parts.append("\n## simulator scenario\n\n`penstock simulate SCENARIO.yaml` ([the simulator](simulator.md)).\n")
    module = importlib.import_module("simulator.scenario")
    for name in SCENARIO:
        parts.append(_type(getattr(module, name, None) or getattr(module.options, name)))
    return "".join(parts)


def _type(cls: Any) -> str:
    """One type of a scenario, with its keys."""
    rows = [
        f"\n### {cls.__name__}\n\n{' '.join((cls.__doc__ or '').split())}\n\n| key | default | meaning |\n|---|---|---|\n"
    ]
    for key, field in cls.model_fields.items():
        default = "required" if field.is_required() else _code(_default(field.default))
        rows.append(_line(_code(key), default, field.description or ""))
    return "".join(rows)


def _default(value: object) -> str:
    """A default as YAML would have it; that of a nested type is what its own table says."""
    if isinstance(value, pydantic.BaseModel) or (isinstance(value, tuple) and value):
        shown = value if isinstance(value, tuple) else (value,)
        named = ", ".join(f"a {type(each).__name__}" for each in shown)
        changed = shown[0].model_dump(exclude_defaults=True) if isinstance(shown[0], pydantic.BaseModel) else {}
        return f"{named} of {changed}" if changed else named
    return "" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main() -> int:
    """Entry point: 0 where the committed page is up to date or was written."""
    text = render()
    if "--check" not in sys.argv:
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(text)
        return 0
    if not OUT.exists() or OUT.read_text() != text:
        print(f"{OUT} differs from the settings types: run `make generate`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

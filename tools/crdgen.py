"""Writes the CustomResourceDefinitions from penstock.api.crds, for kubectl and for the chart; `--check` fails on drift.

Run from the repository's root with the development environment.
"""

from __future__ import annotations

import pathlib
import sys

import yaml

sys.path.insert(0, ".")
from penstock.api import crds
from penstock.api.crds import schema

FOLDERS = (pathlib.Path("manifests/crds"), pathlib.Path("helm/penstock/crds"))
HEAD = "# Generated from penstock/api/crds by `python tools/crdgen.py`; do not edit.\n"


class _Plain(yaml.SafeDumper):
    """Writes what several fields share in full at each of them."""

    def ignore_aliases(self, data: object) -> bool:
        """Never refers to another place of the file."""
        return True


def render() -> dict[str, str]:
    """Name and text of every file, the same in each folder."""
    found = {}
    for resource in crds.KINDS:
        definition = schema.definition(resource)
        text = yaml.dump(definition, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
        found[f"{definition['metadata']['name']}.yaml"] = HEAD + text
    return found


def stale(root: pathlib.Path) -> list[str]:
    """What differs below `root` from what the types say, one line each."""
    wanted = render()
    found = []
    for folder in FOLDERS:
        present = {path.name: path.read_text() for path in (root / folder).glob("*.yaml")}
        for name in sorted({*wanted, *present}):
            if present.get(name) != wanted.get(name):
                found.append(f"{folder / name} differs from penstock/api/crds: run `make generate`")
    return found


def main() -> int:
    """Entry point: 0 where the committed files are up to date or were written."""
    root = pathlib.Path()
    if "--check" in sys.argv:
        found = stale(root)
        print("\n".join(found), end="\n" if found else "", file=sys.stderr)
        return 1 if found else 0
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for path in (root / folder).glob("*.yaml"):
            path.unlink()
        for name, text in render().items():
            (root / folder / name).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

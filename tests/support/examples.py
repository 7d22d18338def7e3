"""The ModelDeployments that the documents show, as a reader would apply them."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).parents[2]
README = "README.md"
# README applies the first; install.md the same.
PAGES = (README, "docs/install.md", "docs/kubernetes.md")
_SHOWN = re.compile(
    r"^(?:\$ kubectl [^\n]*apply -f - <<EOF|```yaml)\n(apiVersion: penstock.dev/v1alpha1\nkind: ModelDeployment\n.*?)^(?:EOF|```)$",
    re.DOTALL | re.MULTILINE,
)


def example(page: str = README) -> dict[str, Any]:
    """The one whole ModelDeployment of a page."""
    found = _SHOWN.findall((ROOT / page).read_text())
    assert len(found) == 1, f"{page} shows {len(found)} ModelDeployments"
    document: dict[str, Any] = yaml.safe_load(found[0])
    return document

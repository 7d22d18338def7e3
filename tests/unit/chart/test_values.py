"""What is generated of the chart's values, without helm."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest
import yaml

import penstock
from penstock.api import crds
from tools import chartgen
from tools.chart import rendered, values

ROOT = pathlib.Path(__file__).parents[3]
CHART = ROOT / "helm" / "penstock"


def test_committed_files_are_those_of_the_types() -> None:
    """values.yaml, the schema and the reference are what the types say."""
    for path, text in chartgen.wanted().items():
        assert (ROOT / path).read_text() == text, path


def test_values_read_back_as_the_defaults() -> None:
    """values.yaml holds every value with its default, and nothing else."""
    assert yaml.safe_load((CHART / "values.yaml").read_text()) == values.Chart().model_dump(exclude_none=True)


def test_every_object_of_the_schema_refuses_unknown_keys() -> None:
    """Nothing but free-form Kubernetes objects and maps takes a key that is not named."""

    def walk(node: object, path: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        loose = node.get("type") == "object" and "properties" in node and node.get("additionalProperties") is not False
        found = [path] if loose else []
        for key, each in node.get("properties", {}).items():
            found += walk(each, f"{path}.{key}")
        return found

    assert walk(json.loads((CHART / "values.schema.json").read_text()), "") == []


def test_every_value_is_documented() -> None:
    """Each field of the types has a description."""
    rows = list(chartgen._rows(values.Chart(), ""))
    assert len(rows) > 80
    assert [key for key, _, text in rows if len(text) < 3] == []


def test_the_chart_carries_the_definitions() -> None:
    """crds/ has one file for each kind."""
    wanted = {f"{each.KIND.plural}.penstock.dev.yaml" for each in crds.KINDS}
    assert {path.name for path in (CHART / "crds").iterdir()} == wanted


def test_a_change_of_the_chart_makes_the_manifests_stale(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifests are found to be old also where there is no helm to render them."""
    for path in (rendered.CHART, rendered.OUT.parent, rendered.VALUES.parent):
        shutil.copytree(ROOT / path, tmp_path / path, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    assert rendered.digest() in rendered.OUT.read_text()
    (rendered.CHART / "templates" / "more.yaml").write_text("# more\n")
    assert "not rendered from the present chart" in rendered.check()[0]


def test_the_chart_is_of_this_version() -> None:
    """Images get the version of the code that they are built from."""
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == penstock.__version__

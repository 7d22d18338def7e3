"""From types to CustomResourceDefinitions: structural, described, up to date."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any, Literal

import pydantic
import pytest
import yaml
from pydantic import Field

from penstock.api import crds
from penstock.api.crds import base, schema, values
from tests.support import custom_resources as support
from tools import crdgen

ROOT = pathlib.Path(__file__).parents[3]


def of(part: type[base.Part]) -> dict[str, Any]:
    """The structural schema of one type."""
    raw = part.model_json_schema(by_alias=True)
    return schema.structural(raw, raw.get("$defs", {}), part.__name__)


def nodes(resource: type[base.Resource]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and schema of every value of a kind."""

    def below(path: str, node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        yield path, node
        for key, each in node.get("properties", {}).items():
            yield from below(f"{path}.{key}", each)
        for key in ("items", "additionalProperties"):
            if key in node:
                yield from below(f"{path}[]", node[key])

    root = schema.definition(resource)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return below(resource.__name__, root)


class Inner(base.Part):
    """Text of the type."""

    size: values.Quantity = Field(1, description="size")


class Outer(base.Part):
    """Every form that the generator knows."""

    RULES = (base.in_order("least", "most"),)

    required: str = Field(description="required")
    optional: str | None = Field(None, description="optional")
    ratio: float = Field(0.5, gt=0, lt=1, description="ratio")
    least: int | None = Field(None, description="least")
    most: int | None = Field(None, description="most")
    only: Literal["one"] = Field("one", description="only")
    inner: Inner = Field(Inner(), description="inner")
    other: Inner | None = Field(None, description="other")
    items: base.Many[Inner] = Field((Inner(size="2Gi"),), description="items", max_length=3)
    text_by_name: dict[str, str] = Field({}, description="texts")


def test_every_form_becomes_structural() -> None:
    """References, options, exclusive limits, constants, lists and defaults have the form that the API server takes."""
    size = {
        "description": "size",
        "default": 1,
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|[MGTPE]|[KMGTPE]i)?$",
        "maxLength": 24,
        "minimum": 0,
    }
    properties = {"size": size}
    assert of(Outer) == {
        "description": "Every form that the generator knows.",
        "type": "object",
        "properties": {
            "required": {"description": "required", "type": "string"},
            "optional": {"description": "optional", "type": "string"},
            "ratio": {
                "description": "ratio",
                "default": 0.5,
                "type": "number",
                "minimum": 0,
                "exclusiveMinimum": True,
                "maximum": 1,
                "exclusiveMaximum": True,
            },
            "least": {"description": "least", "type": "integer"},
            "most": {"description": "most", "type": "integer"},
            "only": {"description": "only", "default": "one", "type": "string", "enum": ["one"]},
            "inner": {"description": "inner", "default": {}, "type": "object", "properties": properties},
            "other": {"description": "other", "type": "object", "properties": properties},
            "items": {
                "description": "items",
                "default": [{"size": "2Gi"}],
                "type": "array",
                "maxItems": 3,
                "items": {"description": "Text of the type.", "type": "object", "properties": properties},
            },
            "textByName": {"description": "texts", "type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["required"],
        "x-kubernetes-validations": [
            {
                "rule": "!has(self.least) || !has(self.most) || self.least <= self.most",
                "message": "must be at most most",
                "fieldPath": ".least",
            }
        ],
    }


def test_the_default_of_an_object_with_rules_is_whole() -> None:
    """The server tries an object's rules on its default before it fills in the defaults below."""

    class Ruled(base.Part):
        """Has a rule over fields with defaults."""

        RULES = (base.in_order("least", "most"),)

        least: int = Field(1, description="least")
        most: int = Field(2, description="most")

    class Whole(base.Part):
        """Holds one."""

        ruled: Ruled = Field(Ruled(), description="ruled")

    assert of(Whole)["properties"]["ruled"]["default"] == {"least": 1, "most": 2}


def test_a_field_without_a_description_ends_the_generator() -> None:
    """`kubectl explain` shall say something of every field."""

    class Bare(base.Part):
        """Has a field without words."""

        field: int = 1

    with pytest.raises(ValueError, match="Bare.field: has no description"):
        of(Bare)


def test_a_fractional_limit_ends_the_generator() -> None:
    """The server compares a whole number with the rounded limit, so 0 would pass for 0.5: a rule says it exactly."""

    class Share(base.Part):
        """Has a limit that the server rounds."""

        field: float = Field(0.9, ge=0.5, description="share")

    with pytest.raises(ValueError, match=r"Share.field: minimum 0.5 is rounded by the server"):
        of(Share)


def test_what_has_no_structural_form_ends_the_generator() -> None:
    """A value of two types, other than Kubernetes' int-or-string, is an error and not a schema that means less."""

    class Mixed(base.Part):
        """Two types."""

        field: Inner | str = Field("", description="mixed")

    class Pair(base.Part):
        """A tuple."""

        field: tuple[int, str] = Field((1, ""), description="pair")

    for part in (Mixed, Pair):
        with pytest.raises(ValueError, match=f"{part.__name__}.field: .* no form in a structural schema"):
            of(part)


@pytest.mark.parametrize("resource", crds.KINDS, ids=lambda each: each.__name__)
def test_schemas_are_structural(resource: type[base.Resource]) -> None:
    """Every value has one type; lists and texts under a rule of their own have a limit, which CEL's cost needs."""
    for path, node in nodes(resource):
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not set(node) & {"$ref", "title", "const", "nullable", "allOf", "oneOf"}, path
        if node.get("type") == "array" and ".status" not in path:
            assert "maxItems" in node, path
        if node.get("type") == "string" and base.VALIDATIONS in node:
            assert "maxLength" in node or "enum" in node, path
        if node.get("x-kubernetes-list-type") == "map":
            assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"]), path


@pytest.mark.parametrize("resource", crds.KINDS, ids=lambda each: each.__name__)
def test_paths_name_fields(resource: type[base.Resource]) -> None:
    """Columns, selectable fields and the scale subresource name fields that are there."""
    definition = schema.definition(resource)
    version = definition["spec"]["versions"][0]
    known = {path.removeprefix(resource.__name__) for path, _ in nodes(resource)}
    paths = [each["jsonPath"] for each in version["additionalPrinterColumns"] + version.get("selectableFields", [])]
    paths += version["subresources"].get("scale", {}).values()
    for path in paths:
        plain = re.sub(r"\[\?.*?\]", "[]", path)
        assert plain in known or plain.startswith(".metadata."), path
    assert definition["spec"]["names"]["shortNames"][0] in ("md", "lora", "pd", "kvt", "ten", "accel")


def test_no_field_holds_a_secret_by_value() -> None:
    """Secrets are named, never given: nothing whose name says secret is a plain text."""
    found = [
        path
        for resource in crds.KINDS
        for path, node in nodes(resource)
        if re.search(r"(secret|token|password|credential|apikey)s?$", path.lower()) and node.get("type") == "string"
    ]
    assert found == []


def test_the_committed_files_are_those_of_the_types() -> None:
    """manifests/crds and the chart hold what the types say, and nothing else."""
    assert crdgen.stale(ROOT) == []
    texts = crdgen.render()
    assert len(texts) == 6
    assert all(yaml.safe_load(text)["kind"] == "CustomResourceDefinition" for text in texts.values())


def test_drift_is_seen(tmp_path: pathlib.Path) -> None:
    """A file that is missing, changed or left over is named."""
    for folder in crdgen.FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
        for name, text in crdgen.render().items():
            (tmp_path / folder / name).write_text(text)
    assert crdgen.stale(tmp_path) == []
    manifests, chart = (tmp_path / folder for folder in crdgen.FOLDERS)
    (manifests / "tenants.penstock.dev.yaml").unlink()
    (chart / "tenants.penstock.dev.yaml").write_text("kind: other\n")
    (chart / "old.yaml").write_text("")
    names = [line.split()[0] for line in crdgen.stale(tmp_path)]
    assert names == [
        "manifests/crds/tenants.penstock.dev.yaml",
        "helm/penstock/crds/old.yaml",
        "helm/penstock/crds/tenants.penstock.dev.yaml",
    ]


def test_every_rule_has_a_bad_object() -> None:
    """The table of bad objects is built from the schemas: a rule without one ends it."""
    first = [each for each in support.cases() if not each.way]
    assert len(first) + len(support.changes()) == len(support.rules())
    assert len(support.rules()) > 80


def test_defaults_are_checked() -> None:
    """A default that its own field would refuse is found when the object is made."""

    class Wrong(base.Part):
        """Has a default that is too small."""

        field: int = Field(0, ge=1, description="field")

    with pytest.raises(pydantic.ValidationError):
        Wrong()

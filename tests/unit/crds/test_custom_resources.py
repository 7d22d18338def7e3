"""The custom resources' types: what they take, what they refuse, and with which words."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from penstock.api.crds import base, modeldeployment, values
from tests.support import custom_resources as support

CASES = support.cases()
CHANGES = support.changes()


@pytest.mark.parametrize("document", support.valid(), ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_a_valid_object_is_taken_and_written_back(document: support.Object) -> None:
    """A valid object is read, and what is written of it reads the same again."""
    resource = support.TYPES[document["kind"]]
    read = resource.written(document)
    again = resource.read(read.model_dump(by_alias=True, exclude_none=True))
    assert again == read


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_broken_rule_is_refused_by_name(case: support.Case) -> None:
    """An object that breaks a rule is refused with the rule's message, at the place that the rule is about."""
    with pytest.raises(pydantic.ValidationError) as caught:
        support.TYPES[case.rule.kind].written(case.bad)
    said = {
        ".".join(str(step) for step in error["loc"] if step not in ("str", "int")): error["msg"]
        for error in caught.value.errors()
    }
    at = case.rule.path.replace("[]", ".0")
    assert any(where == at and case.rule.message in text for where, text in said.items()), said
    if case.rule.field:
        assert any(f"{case.rule.field[1:]}: {case.rule.message}" in text for text in said.values())


@pytest.mark.parametrize(("rule", "old", "new"), CHANGES, ids=lambda each: getattr(each, "path", ""))
def test_an_immutable_field_keeps_its_value(rule: support.RuleAt, old: support.Object, new: support.Object) -> None:
    """A change of an immutable field is refused and names it; the same object again is not."""
    resource = support.TYPES[rule.kind]
    before, after = resource.written(old), resource.written(new)
    assert base.changes_refused(before, before) == []
    assert base.changes_refused(before, after) == [f"{rule.path}: {rule.message}"]


def test_roles_keep_their_names_and_change_all_else() -> None:
    """Counts and order are free."""
    about = {"apiVersion": "penstock.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "m"}}

    def read(*roles: support.Object) -> base.Resource:
        spec = {"model": {"name": "m"}, "engine": {"kind": "sim"}, "roles": list(roles)}
        return support.TYPES["ModelDeployment"].written(about | {"spec": spec})

    prefill, decode = {"name": "prefill"}, {"name": "decode"}
    before = read(prefill, decode)
    assert base.changes_refused(before, read(decode | {"replicas": 3}, prefill)) == []
    assert len(base.changes_refused(before, read(prefill, decode, {"name": "encode"}))) == 1


def test_the_examples_give_every_field() -> None:
    """Every field of every spec is in one of the valid objects, so that each of its limits is tried somewhere."""
    missing = []
    for name, resource in support.TYPES.items():
        documents = [each for each in support.valid() if each["kind"] == name]
        for path in _paths(resource.model_fields["spec"].annotation, "spec"):
            if all(support.get(each, path) is None for each in documents):
                missing.append(f"{name}.{path}")
    assert missing == []


def _paths(annotation: Any, path: str) -> list[str]:
    """JSON paths of all fields of a type."""
    if isinstance(annotation, type) and issubclass(annotation, base.Part):
        found = []
        for name, field in annotation.model_fields.items():
            found += _paths(field.annotation, f"{path}.{field.alias or name}")
        return [path, *found]
    below = []
    for inner in getattr(annotation, "__args__", ()):
        is_list = getattr(annotation, "__origin__", None) is tuple
        below += _paths(inner, f"{path}[]" if is_list else path) if inner is not Ellipsis else []
    return [path, *(each for each in below if each != path)]


@pytest.mark.parametrize(
    "change",
    [
        {"spec.replicas": "3"},
        {"spec.replicas": True},
        {"spec.replicas": 1.5},
        {"spec.engine.args": "--a"},
        {"spec.engine.unknown": 1},
        {"spec.engine.kind": "tgi"},
        {"spec.drain.timeout": "15 minutes"},
        {"spec.drain.timeout": "1d"},
        {"spec.engine.resources.memory": "64GiB"},
        {"spec.rollout.maxSurge": "101%"},
        {"metadata.name": "a" * 41},
    ],
    ids=lambda each: str(next(iter(each.items()))[:1]) + str(next(iter(each.values())))[:12],
)
def test_wrong_types_and_forms_are_refused(change: dict[str, Any]) -> None:
    """Numbers as text, unknown keys, and durations or quantities in another form than Kubernetes' are refused."""
    document = support.valid()[0]
    for path, value in change.items():
        support.put(document, path, value)
    with pytest.raises(pydantic.ValidationError):
        modeldeployment.ModelDeployment.written(document)


def test_objects_of_a_newer_version_are_read() -> None:
    """What the API server sends may have fields of a newer version, and nulls for what is absent."""
    document = support.valid()[-1]
    document["spec"] |= {"fieldOfTomorrow": {"a": 1}, "power": None}
    read: Any = support.TYPES["AcceleratorProfile"].read(document)
    assert read.spec.per_node == 8
    assert read.spec.power is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("1h30m", 5400.0), ("1.5s", 1.5), ("0s", 0.0), ("2m0.5s", 120.5)]
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    """Durations are those of Go."""
    assert values.duration_s(text) == seconds


@pytest.mark.parametrize(
    ("value", "number"), [(4, 4), ("500m", 0.5), ("80Gi", 80 * 2**30), ("2k", 2000), ("1.5M", 1_500_000)]
)
def test_quantities_are_numbers(value: int | str, number: float) -> None:
    """Quantities are those of Kubernetes."""
    assert values.quantity(value) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "1", "1d", "s", "-1s", "1s ", "1s\n"])
def test_what_is_no_duration_is_an_error(text: str) -> None:
    """A text of another form raises ValueError."""
    with pytest.raises(ValueError, match="a duration is written like"):
        values.duration_s(text)

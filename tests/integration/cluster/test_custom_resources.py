"""The custom resources on a real API server: it and the types agree about every object."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pydantic
import pytest

from penstock.api import crds
from penstock.api.crds import base
from tests.cluster import api
from tests.support import custom_resources as support

CHANGES = support.changes()
_BASE = "/apis/penstock.dev/v1alpha1"


def said(answer: Any) -> list[tuple[str, str]]:
    """Field and message of each cause of a refusal."""
    body = answer.json()
    causes = body.get("details", {}).get("causes", [])
    return [(each.get("field", ""), each.get("message", "")) for each in causes] or [("", body.get("message", ""))]


def bare(value: Any) -> Any:
    """Without what is empty or absent, which the two sides write differently."""
    if isinstance(value, dict):
        return {key: short for key, each in value.items() if (short := bare(each)) not in (None, [], {}, "")}
    return [bare(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("resource", crds.KINDS, ids=lambda each: each.__name__)
def test_definitions_are_accepted_as_structural(server: api.Api, resource: type[base.Resource]) -> None:
    """The server takes each definition without a complaint, and its names."""
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{resource.KIND.plural}.penstock.dev"
    conditions = {each["type"]: each["status"] for each in server.get(path).json()["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}
    found = {each["name"]: each for each in server.get(_BASE).json()["resources"]}
    assert found[resource.KIND.plural]["shortNames"] == [resource.KIND.short_name]
    assert found[resource.KIND.plural]["categories"] == ["penstock"]
    assert f"{resource.KIND.plural}/status" in found


@pytest.mark.parametrize("document", support.valid(), ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_defaults_are_the_same_on_both_sides(server: api.Api, namespace: str, document: support.Object) -> None:
    """A valid object is taken, and the server fills in the same defaults as the type."""
    answer = server.create(document, namespace, dry_run=True)
    assert answer.is_success, answer.text
    spec: Any = support.TYPES[document["kind"]].written(document)
    assert bare(answer.json()["spec"]) == bare(spec.spec.model_dump(by_alias=True, mode="json"))


@pytest.mark.parametrize("case", support.cases(), ids=lambda case: case.id)
def test_a_broken_rule_is_refused_by_name(server: api.Api, namespace: str, case: support.Case) -> None:
    """An object that breaks a rule is refused with a message that names the field and what is allowed."""
    answer = server.create(case.bad, namespace, dry_run=True)
    assert answer.status_code == 422, answer.text
    assert any(
        case.rule.message in message and (field == case.field or not case.field) for field, message in said(answer)
    ), answer.text


_TWO = {"tensor": 2, "nodes": 2}
_HARDWARE = [{"profile": "h100", "parallelism": _TWO}]


@pytest.mark.parametrize(
    "spread",
    [
        {"parallelism": _TWO},
        {"accelerators": _HARDWARE},
        {"roles": [{"name": "unified", "parallelism": _TWO}]},
        {"roles": [{"name": "unified", "accelerators": _HARDWARE}]},
    ],
    ids=["deployment", "accelerator", "role", "accelerator of a role"],
)
def test_only_vllm_spans_nodes(server: api.Api, namespace: str, spread: support.Object) -> None:
    """Wherever a worker is given several nodes, server and type take vLLM and refuse another engine."""
    for engine, taken in (
        ({"kind": "vllm"}, True),
        ({"kind": "sglang", "image": "x"}, False),
        ({"kind": "sim"}, False),
    ):
        document = {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "m"},
            "spec": {"model": {"name": "big", "source": {"path": "/models"}}, "engine": engine, **spread},
        }
        answer = server.create(document, namespace, dry_run=True)
        assert answer.is_success is taken, answer.text
        try:
            support.TYPES["ModelDeployment"].written(document)
        except pydantic.ValidationError as exc:
            assert not taken and "where a worker spans nodes" in str(exc)
        else:
            assert taken


@pytest.mark.parametrize(("rule", "old", "new"), CHANGES, ids=lambda each: getattr(each, "path", ""))
def test_an_immutable_field_keeps_its_value(
    server: api.Api, namespace: str, rule: support.RuleAt, old: support.Object, new: support.Object
) -> None:
    """A change of an immutable field is refused and names it; another change of the same object is not."""
    old["metadata"] = {"name": namespace}
    made = server.create(old, namespace)
    assert made.is_success, made.text
    changed = {**new, "metadata": made.json()["metadata"]}
    refused = server.replace(changed, namespace)
    assert refused.status_code == 422
    assert any(field == rule.path and rule.message in message for field, message in said(refused)), refused.text
    same = {**old, "metadata": made.json()["metadata"] | {"labels": {"a": "b"}}}
    assert server.replace(same, namespace).is_success
    server.delete(old, namespace)


def test_roles_keep_their_names_and_change_all_else(server: api.Api, namespace: str) -> None:
    """Counts and order are free; a role more, fewer or another is not."""
    document = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "roles"},
        "spec": {"model": {"name": "m"}, "engine": {"kind": "sim"}, "roles": [{"name": "prefill"}, {"name": "decode"}]},
    }
    assert server.create(document, namespace).is_success
    path = f"/apis/penstock.dev/v1alpha1/namespaces/{namespace}/modeldeployments/roles"
    for roles, taken in (
        ([{"name": "decode", "replicas": 3}, {"name": "prefill"}], True),
        ([{"name": "prefill"}, {"name": "decode"}, {"name": "encode"}], False),
        ([{"name": "unified"}], False),
    ):
        answer = server.merge(path, {"spec": {"roles": roles}})
        assert answer.is_success == taken, answer.text
        assert taken or "the names of roles cannot be changed" in answer.text
    assert not server.merge(f"{path}/scale", {"spec": {"replicas": 9000}}).is_success, "27,000 workers"
    server.delete(document, namespace)


_NO_VALUE = object()


def _nodes(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Path and value of everything in an object; of lists the first item."""
    yield path, value
    if isinstance(value, dict):
        for key, each in value.items():
            if "." not in key and "/" not in key:
                yield from _nodes(each, f"{path}.{key}")
    elif isinstance(value, list) and value:
        yield from _nodes(value[0], f"{path}[]")


def _variations(value: Any) -> list[Any]:
    """Other values for a field: of other types, at and past the usual limits, empty, absent."""
    match value:
        case bool():
            return [_NO_VALUE, "true", 1, None]
        case int() | float():
            return [_NO_VALUE, str(value), True, -1, 0, 1, 101, 10_001, 2_000_000, 10**13, 1.5, None, [value]]
        case str():
            others = [
                "",
                "x",
                "X y",
                "-x",
                "x-",
                "x" * 64,
                "x" * 5000,
                "0",
                "1h",
                "1.5h30m",
                "5d",
                "50%",
                "101%",
                "1Gi",
            ]
            return [_NO_VALUE, 1, True, None, [value], value + "\n", " " + value, "é", *others]
        case list():
            return [_NO_VALUE, [], [None], ["x"], [1], [{}], value * 2, value * 300, {}, "x", None]
        case dict():
            return [_NO_VALUE, {}, {"zzUnknown": 1}, {**value, "zzUnknown": "1"}, [], "x", None]
    raise AssertionError(value)


@pytest.mark.slow
@pytest.mark.parametrize("document", support.valid(), ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_both_sides_agree_about_variations(server: api.Api, namespace: str, document: support.Object) -> None:
    """Whatever one field of an object is changed to, the server refuses the object where the type does, and only there."""
    resource, differ, refused, count = support.TYPES[document["kind"]], [], 0, 0
    for path, value in _nodes(document["spec"], "spec"):
        for other in _variations(value):
            changed = copy.deepcopy(document)
            if other is _NO_VALUE and path.endswith("[]"):
                continue
            *_, last = path.rpartition(".")
            if other is _NO_VALUE:
                parent = support.get(changed, path.rpartition(".")[0]) if "." in path else changed
                parent.pop(last)
            else:
                _set(changed, path, other)
            answer = server.create(changed, namespace, dry_run=True)
            try:
                resource.written(changed)
                taken = True
            except pydantic.ValidationError:
                taken = False
            count, refused = count + 1, refused + (not taken)
            if taken != answer.is_success:
                differ.append(f"{path} = {str(other)[:60]!r}: type {taken}, server {answer.text[:300]}")
    assert differ == []
    assert refused > count / 4


def _set(target: support.Object, path: str, value: Any) -> None:
    """Also to null, which `put` takes for deletion."""
    support.put(target, path, _NO_VALUE)
    support.put(target, path, value) if value is not None else _null(target, path)


def _null(target: support.Object, path: str) -> None:
    parent, key = path, ""
    if path.endswith("[]"):
        parent = path[:-2]
        support.get(target, parent)[0] = None
        return
    parent, _, key = path.rpartition(".")
    (support.get(target, parent) if parent else target)[key] = None


@pytest.mark.parametrize("resource", crds.KINDS, ids=lambda each: each.__name__)
def test_every_field_is_explained(server: api.Api, resource: type[base.Resource]) -> None:
    """The server's OpenAPI document, which `kubectl explain` reads, has a description of every field."""
    schemas = server.get("/openapi/v3/apis/penstock.dev/v1alpha1").json()["components"]["schemas"]
    root = schemas[f"dev.penstock.v1alpha1.{resource.__name__}"]
    silent, count = [], 0

    def look(node: dict[str, Any], path: str) -> None:
        nonlocal count
        for key, each in node.get("properties", {}).items():
            count += 1
            if not each.get("description"):
                silent.append(f"{path}.{key}")
            look(each, f"{path}.{key}")
        if isinstance(node.get("items"), dict):
            look(node["items"], f"{path}[]")

    look({"properties": {key: root["properties"][key] for key in ("spec", "status")}}, resource.__name__)
    assert silent == []
    assert count > 15


def test_scale_reads_and_writes_replicas(server: api.Api, namespace: str) -> None:
    """The scale subresource changes spec.replicas within the bounds and refuses what is outside, with the rule's words."""
    document = support.valid()[0]
    assert server.create(document, namespace).is_success
    path = f"{_BASE}/namespaces/{namespace}/modeldeployments/{document['metadata']['name']}"
    assert server.get(f"{path}/scale").json()["spec"] == {"replicas": 3}
    assert server.merge(f"{path}/scale", {"spec": {"replicas": 5}}).is_success
    assert server.get(path).json()["spec"]["replicas"] == 5
    refused = server.merge(f"{path}/scale", {"spec": {"replicas": 9}})
    assert refused.status_code == 422
    assert "must lie between scaling.minReplicas and scaling.maxReplicas" in refused.text
    status = {"status": {"replicas": 4, "selector": "penstock.dev/deployment=x"}}
    assert server.merge(f"{path}/status", status).is_success
    assert server.get(f"{path}/scale").json()["status"] == {"replicas": 4, "selector": "penstock.dev/deployment=x"}


def test_status_and_spec_are_written_apart(server: api.Api, namespace: str) -> None:
    """A write of the object leaves the status, a write of the status leaves the spec and the generation."""
    document = support.valid()[4]
    made = server.create(document | {"status": {"revision": "forged"}}, namespace).json()
    assert "revision" not in made.get("status", {})
    path = f"{_BASE}/namespaces/{namespace}/modeldeployments/{document['metadata']['name']}"
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": "Waiting",
        "message": "no worker yet",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    patched = server.merge(f"{path}/status", {"spec": {"replicas": 7}, "status": {"conditions": [condition]}}).json()
    assert patched["spec"]["replicas"] == 1
    assert patched["metadata"]["generation"] == 1
    read: Any = support.TYPES["ModelDeployment"].read(patched)
    assert read.status.conditions[0].observed_generation == 1
    wrong = server.merge(f"{path}/status", {"status": {"conditions": [condition | {"status": "Maybe"}]}})
    assert wrong.status_code == 422


@pytest.mark.parametrize("resource", crds.KINDS, ids=lambda each: each.__name__)
def test_the_table_has_the_columns(server: api.Api, namespace: str, resource: type[base.Resource]) -> None:
    """`kubectl get` shows the columns of the kind, with what the object says in them."""
    document = next(each for each in support.valid() if each["kind"] == resource.__name__)
    document["metadata"] = {"name": namespace}
    made = server.create(document, namespace)
    assert made.is_success, made.text
    table = server.get(
        f"{api.path_of(document, namespace)}/{namespace}",
        headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"},
    ).json()
    names = [each["name"] for each in table["columnDefinitions"]]
    assert names == ["Name", *(column.name for column in resource.KIND.columns)]
    assert table["rows"][0]["cells"][0] == namespace
    shown = dict(zip(names, table["rows"][0]["cells"], strict=True))
    for column in resource.KIND.columns:
        if column.path.startswith(".spec."):
            wanted = support.get(document, column.path[1:])
            assert str(shown[column.name]) == str(wanted), column.name
    server.delete(document, namespace)


def test_objects_are_selected_by_field(server: api.Api, namespace: str) -> None:
    """A field selector on the model's name gives the deployments of that model only."""
    for document in support.valid()[:5]:
        assert server.create(document, namespace).is_success
    path = f"{_BASE}/namespaces/{namespace}/modeldeployments"
    found = server.get(path, params={"fieldSelector": "spec.model.name=llama"}).json()["items"]
    assert sorted(each["metadata"]["name"] for each in found) == ["llama-path", "llama-store", "llama-volume"]
    found = server.get(path, params={"fieldSelector": "spec.engine.kind=sim"}).json()["items"]
    assert [each["metadata"]["name"] for each in found] == ["simulated"]


def test_two_writers_share_a_list(server: api.Api, namespace: str) -> None:
    """With server-side apply two writers each own their role of one object."""
    name = {"apiVersion": base.API_VERSION, "kind": "ModelDeployment", "metadata": {"name": "shared"}}
    first = {"model": {"name": "m"}, "engine": {"kind": "sim"}, "roles": [{"name": "prefill"}, {"name": "decode"}]}
    assert server.apply(name | {"spec": first}, namespace, "user").is_success
    second = {"roles": [{"name": "decode", "replicas": 3}]}
    applied = server.apply(name | {"spec": second}, namespace, "autoscaler")
    assert applied.is_success, applied.text
    roles = {each["name"]: each["replicas"] for each in applied.json()["spec"]["roles"]}
    assert roles == {"prefill": 1, "decode": 3}


@pytest.mark.parametrize(
    ("engine", "taken"),
    [
        *(
            ({"args": [arg]}, False)
            for arg in (
                "--api-key=s",
                "--api-k=s",
                "--api_k=s",
                "--api=s",
                "--admin-api-key=s",
                "--model-p=/x",
                "--data-parallel-s=2",
                "--por=1",
                "--port",
                "--tp-s=2",
            )
        ),
        *(
            ({"args": [arg]}, True)
            for arg in (
                "--hf-overrides={}",
                "--api-server-count=2",
                "--data-parallel-size-local=1",
                "--max-num-seqs=8",
                "--model-impl=auto",
            )
        ),
        *(
            ({"env": [{"name": name, "value": "s"}]}, False)
            for name in ("HF_TOKEN", "hf_token", "DB_PASSWD", "MY_SECRET_KEY")
        ),
        *(({"env": [{"name": name, "value": "s"}]}, True) for name in ("TOKENS", "VLLM_LOGGING_LEVEL")),
    ],
    ids=str,
)
def test_no_secret_comes_by_another_name(server: api.Api, namespace: str, engine: support.Object, taken: bool) -> None:
    """Engines take the beginning of a flag for the flag, and variables in small letters."""
    document = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "m"},
        "spec": {"model": {"name": "big", "source": {"path": "/models"}}, "engine": engine},
    }
    assert server.create(document, namespace, dry_run=True).is_success is taken
    try:
        support.TYPES["ModelDeployment"].written(document)
    except pydantic.ValidationError:
        assert not taken
    else:
        assert taken

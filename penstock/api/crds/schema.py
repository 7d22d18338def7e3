"""CustomResourceDefinitions from the types: what Pydantic calls a JSON schema, made structural as the API server wants it.

Structural means: no references, one type per value, no `null`, `const` or tuple forms
(https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/).
"""

from __future__ import annotations

from typing import Any

from penstock.api.crds import base

Schema = dict[str, Any]

# Taken over as they are, in this order.
_KEPT = (
    "type", "format", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems",
    "minProperties", "maxProperties", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
)  # fmt: skip
_DROPPED = {"title", "default", "description", "$ref", "anyOf", "const", "properties", "required", "items"}
_DROPPED |= {"additionalProperties", "exclusiveMinimum", "exclusiveMaximum", base.VALIDATIONS}


def definition(resource: type[base.Resource]) -> Schema:
    """The CustomResourceDefinition of one kind. Raises ValueError where a type cannot be said in a structural schema."""
    kind, name = resource.KIND, resource.__name__
    version: Schema = {
        "name": base.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_column(each) for each in kind.columns],
        "schema": {"openAPIV3Schema": _root(resource)},
    }
    if kind.scaled:
        version["subresources"]["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{base.GROUP}"},
        "spec": {
            "group": base.GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": kind.plural,
                "singular": name.lower(),
                "shortNames": [kind.short_name],
                "categories": ["penstock"],
            },
            "versions": [version],
        },
    }


def _column(column: base.Column) -> Schema:
    shown: Schema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        shown["description"] = column.description
    return {**shown, "priority": 1} if column.wide else shown


def _root(resource: type[base.Resource]) -> Schema:
    """The schema of the whole object: the server itself knows apiVersion, kind and metadata."""
    raw = resource.model_json_schema(by_alias=True, mode="validation")
    shown = structural(raw, raw.get("$defs", {}), resource.__name__)
    own = shown["properties"]
    for name in ("apiVersion", "kind"):
        own[name] = {"description": own[name]["description"], "type": "string"}
    own["metadata"] = {"type": "object"}
    own["status"] = _without_defaults(own["status"])
    shown["required"] = ["spec"]
    return shown


def structural(raw: Schema, defs: Schema, path: str) -> Schema:
    """One value's schema. `path` names it in errors."""
    raw = _resolved(raw, defs)
    if "anyOf" in raw:
        raw = _one_type(raw, defs, path)
    unknown = set(raw) - set(_KEPT) - _DROPPED - {"x-kubernetes-int-or-string", "$defs"}
    for limit in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if raw.get(limit, 0) != int(raw.get(limit, 0)):
            raise ValueError(f"{path}: {limit} {raw[limit]} is rounded by the server for whole numbers: use a rule")
    if unknown or "prefixItems" in raw:
        raise ValueError(f"{path}: {sorted(unknown)} has no form in a structural schema")
    shown: Schema = {}
    if raw.get("description"):
        shown["description"] = " ".join(raw["description"].split())
    if "x-kubernetes-int-or-string" in raw:
        shown |= {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    shown |= {key: raw[key] for key in _KEPT if key in raw}
    if "const" in raw:
        shown["enum"] = [raw["const"]]
    for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in raw:
            shown |= {limit: raw[exclusive], exclusive: True}
    if "items" in raw:
        shown["items"] = structural(raw["items"], defs, f"{path}[]")
    if isinstance(raw.get("additionalProperties"), dict):
        shown["additionalProperties"] = structural(raw["additionalProperties"], defs, f"{path}{{}}")
    if "properties" in raw:
        shown["properties"] = {key: _property(each, defs, f"{path}.{key}") for key, each in raw["properties"].items()}
        if raw.get("required"):
            shown["required"] = list(raw["required"])
    if base.VALIDATIONS in raw:
        shown[base.VALIDATIONS] = raw[base.VALIDATIONS]
    return shown


def _property(raw: Schema, defs: Schema, path: str) -> Schema:
    """A property: as any value, with a description that is its own, and its default."""
    shown = structural(raw, defs, path)
    if not raw.get("description"):
        raise ValueError(f"{path}: has no description")
    default = minimal(raw.get("default"), shown)
    if default is None or default == [] or (default == {} and "properties" not in shown):
        return shown
    described = {"description": shown.pop("description")}
    return {**described, "default": default, **shown}


def minimal(value: Any, schema: Schema) -> Any:
    """A default without what the defaults below it say: the server fills these in itself.

    Not so where the object has rules: these are tried on the default as it stands, before anything is filled in.
    """
    if isinstance(value, dict) and "properties" in schema:
        ruled = base.VALIDATIONS in schema
        kept = {}
        for key, each in value.items():
            below = schema["properties"][key]
            short = minimal(each, below)
            if short is not None and short != [] and (ruled or short != below.get("default")):
                kept[key] = short
        return kept
    if isinstance(value, list | tuple) and "items" in schema:
        return [minimal(each, schema["items"]) for each in value]
    return value


def _resolved(raw: Schema, defs: Schema) -> Schema:
    """With its reference put in; what stands beside the reference wins, and rules add up."""
    if "$ref" not in raw:
        return raw
    target = _resolved(defs[raw["$ref"].rpartition("/")[2]], defs)
    rules = [*target.get(base.VALIDATIONS, ()), *raw.get(base.VALIDATIONS, ())]
    merged = {**target, **{key: each for key, each in raw.items() if key != "$ref"}}
    return {**merged, base.VALIDATIONS: rules} if rules else merged


def _one_type(raw: Schema, defs: Schema, path: str) -> Schema:
    """An optional value is one that may be absent; a whole number or text is Kubernetes' int-or-string."""
    outer = {key: each for key, each in raw.items() if key != "anyOf"}
    options = [_resolved(each, defs) for each in raw["anyOf"] if each.get("type") != "null"]
    if len(options) == 1:
        return (
            _resolved({**options[0], **outer}, defs)
            if "anyOf" not in options[0]
            else _one_type({**options[0], **outer}, defs, path)
        )
    if [each.get("type") for each in options] != ["integer", "string"]:
        raise ValueError(f"{path}: a value of several types has no form in a structural schema")
    merged = {key: each for option in options for key, each in option.items() if key != "type"}
    return {**merged, **outer, "x-kubernetes-int-or-string": True}


def _without_defaults(schema: Schema) -> Schema:
    """What a status says is what was observed: nothing is filled in."""
    shown = {key: each for key, each in schema.items() if key != "default"}
    if "properties" in shown:
        shown["properties"] = {key: _without_defaults(each) for key, each in shown["properties"].items()}
    if "items" in shown:
        shown["items"] = _without_defaults(shown["items"])
    return shown

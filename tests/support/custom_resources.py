"""Custom resources for tests: valid ones, and for every rule of the schemas one object that breaks it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import yaml

from penstock.api import crds
from penstock.api.crds import base, schema

Object = dict[str, Any]
TYPES = {each.__name__: each for each in crds.KINDS}
_FILE = pathlib.Path(__file__).parents[1] / "data" / "custom_resources.yaml"


@functools.cache
def _documents() -> tuple[Object, ...]:
    return tuple(yaml.safe_load_all(_FILE.read_text()))


def valid() -> list[Object]:
    """Valid objects of every kind, new at each call."""
    return copy.deepcopy(list(_documents()))


@dataclasses.dataclass(frozen=True)
class RuleAt:
    """A rule, where the schema has it. A path has `[]` for the items of a list."""

    kind: str
    path: str
    cel: str
    message: str
    field: str

    @property
    def transition(self) -> bool:
        """Whether it compares with the object as it was."""
        return "oldSelf" in self.cel


@dataclasses.dataclass(frozen=True)
class Case:
    """An object that breaks one rule. `field` is what the message has to name."""

    rule: RuleAt
    bad: Object
    field: str
    # Where a rule is broken in more than one way.
    way: str = ""

    @property
    def id(self) -> str:
        """Name of the test."""
        return f"{self.rule.kind}-{self.rule.path}-{self.rule.message[:40]}{self.way and '-'}{self.way}"


def rules() -> list[RuleAt]:
    """Every rule of every kind's schema."""
    found = []
    for resource in crds.KINDS:
        root = schema.definition(resource)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        found += list(_rules_below(resource.__name__, "", root))
    return found


def _rules_below(kind: str, path: str, node: Object) -> Iterator[RuleAt]:
    for rule in node.get(base.VALIDATIONS, ()):
        yield RuleAt(kind, path, rule["rule"], rule["message"], rule.get("fieldPath", ""))
    for key, each in node.get("properties", {}).items():
        yield from _rules_below(kind, f"{path}.{key}".lstrip("."), each)
    if "items" in node:
        yield from _rules_below(kind, f"{path}[]", node["items"])


def cases() -> list[Case]:
    """Bad objects for each rule that looks at one object alone. Raises AssertionError where a rule has none."""
    found = []
    for rule in rules():
        if not rule.transition:
            found.append(_case(rule))
            found += [_with_two(rule, first, second) for first, second in itertools.combinations(_one_of(rule), 2)]
    return found


def changes() -> list[tuple[RuleAt, Object, Object]]:
    """For each rule about changes: the rule, an object, and the same object with a forbidden change."""
    found = []
    for rule in rules():
        if rule.transition:
            old = _with(rule)
            new = copy.deepcopy(old)
            before = get(new, rule.path)
            changed = "INT4" if rule.path.endswith("codec") else f"{before}-2"
            put(new, rule.path, [{"name": "encode"}, *before] if rule.path.endswith("roles") else changed)
            found.append((rule, old, new))
    return found


def get(target: Object, path: str) -> Any:
    """The value at a path; `[]` is the first item. None where there is none."""
    value: Any = target
    for step in _steps(path):
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and value else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def put(target: Object, path: str, value: Any) -> None:
    """Sets the value at a path whose parent is there; None takes it away."""
    *above, last = _steps(path)
    for step in above:
        target = target[step]
    if value is None:
        del target[last]
    else:
        target[last] = value


def _steps(path: str) -> list[Any]:
    return [0 if step == "[]" else step for step in re.findall(r"\[\]|[^.\[\]]+", path)]


def _with(rule: RuleAt) -> Object:
    """A valid object that has a value where the rule is."""
    for document in valid():
        if document["kind"] == rule.kind and (not rule.path or get(document, rule.path) is not None):
            return document
    raise AssertionError(f"{_FILE.name} has no {rule.kind} with {rule.path}")


def _case(rule: RuleAt) -> Case:
    bad = _with(rule)
    if rule.message in _BY_MESSAGE and (wanted := _BY_MESSAGE[rule.message]):
        for path, value in wanted.items():
            put(bad, f"{rule.path}.{path}".strip("."), value)
    else:
        _break(rule, bad)
    field = f"{rule.path}{rule.field}".lstrip(".").replace("[]", "[0]")
    return Case(rule, bad, field)


def _break(rule: RuleAt, bad: Object) -> None:
    """The rules that many fields share."""
    here = get(bad, rule.path)
    if rule.message.startswith("must be a duration from"):
        put(bad, rule.path, "99999h")
    elif rule.message.startswith("must be a quantity above 0"):
        put(bad, rule.path, "0")
    elif rule.message.startswith("keys must be label names"):
        put(bad, rule.path, {"-": "x"})
    elif rule.message.startswith("Penstock sets"):
        put(bad, rule.path, ["--port=1"])
    elif names := _one_of(rule):
        for name in names:
            here.pop(name, None)
    elif re.fullmatch(r"each \S+ may appear once", rule.message):
        put(bad, rule.path, [here[0]] * 2)
    elif match := re.fullmatch(r"must be at most (max\S+)", rule.message):
        here |= {rule.field[1:]: 9, match[1]: 3}
    else:
        raise AssertionError(f"no bad object for {rule.kind} {rule.path}: {rule.message}")


def _one_of(rule: RuleAt) -> list[str]:
    """Fields of which exactly one must be given; none where the rule is another."""
    match = re.fullmatch(r"exactly one of (.*) must be given", rule.message)
    return match[1].split(", ") if match else []


def _with_two(rule: RuleAt, first: str, second: str) -> Case:
    """Two fields are given of which one must be."""
    case = _case(rule)
    for name in (first, second):
        put(case.bad, f"{rule.path}.{name}", _GIVEN[name])
    return dataclasses.replace(case, way=f"{first}+{second}")


# A value for each field that excludes others.
_GIVEN: dict[str, Any] = {
    "hub": {"repo": "org/model"},
    "objectStore": {"uri": "s3://bucket/model"},
    "volume": {"claimName": "weights"},
    "path": "/models/x",
    "nodePath": "/var/cache/models",
    "claimName": "weights",
    "value": "x",
    "secretKeyRef": {"name": "secret", "key": "key"},
    "replicas": 1,
    "percent": 50,
    "onDemand": {},
    "watts": 1000,
    "derived": {},
    "redfish": {"url": "https://pdu.example.com", "credentials": {"name": "pdu"}},
    "prometheus": {"url": "http://prometheus:9090", "query": "power"},
    "members": "Sum",
}

# What breaks a rule that only one object has: paths below the object that carries it.
_BY_MESSAGE: dict[str, Object] = {
    base.NAME_RULE.message: {"metadata.name": "3.five"},
    "must lie between scaling.minReplicas and scaling.maxReplicas": {"replicas": 9999},
    "replicas times the replicas of a role must be at most 10000": {
        "replicas": 101,
        "scaling": {"maxReplicas": 200},
        "roles": [{"name": "unified", "replicas": 100}],
    },
    "with the bound that a schedule leaves out, its minReplicas must be at most its maxReplicas": {
        "minReplicas": 0,
        "maxReplicas": 4,
        "schedules": [{"name": "day", "start": "08:00", "end": "20:00", "minReplicas": 10}],
    },
    "must name a model.source, unless engine.kind is sim": {"model.source": None},
    "prefill and decode must be given together: a request needs both": {"roles": [{"name": "decode"}]},
    "must be given where kind is sglang: no image of it was tested": {"kind": "sglang", "image": None},
    "must be Pods where a worker spans nodes (parallelism.nodes above 1, of the deployment, a role or an accelerator)": {
        "hosting": "RayServe",
        "engine": {"kind": "vllm", "image": "x"},
        "roles": [{"name": "unified", "parallelism": {"tensor": 2, "nodes": 2}}],
    },
    "must be given where hosting is RayServe: an image with Ray, this package and the engine": {
        "hosting": "RayServe",
        "engine.kind": "sim",
        "engine.image": None,
    },
    "must be vllm where a worker spans nodes (parallelism.nodes above 1, of the deployment, a role or an accelerator)": {
        "engine": {"kind": "sglang", "image": "x"},
        "accelerators": [{"profile": "h100", "parallelism": {"tensor": 2, "nodes": 2}}],
    },
    "must divide tensor x pipeline x data, so that each node holds as many accelerators": {"nodes": 3},
    "at least one of ttft, itl, e2e must be given": {"ttft": None, "itl": None, "e2e": None},
    "must be a number from 0.5 to 0.999, like 0.95": {"": 0.4},
    "must be at most e2e": {"ttft": "31s"},
    "must differ from start; an end before the start is on the next day": {"end": "08:00"},
    "at least one of minReplicas, maxReplicas must be given": {"minReplicas": None, "maxReplicas": None},
    "each Gateway may be named once": {"": [{"name": "a"}, {"name": "a"}]},
    "must be above 0 where strategy is InPlace or maxSurge is 0: else nothing can be replaced": {
        "strategy": "InPlace",
        "maxUnavailable": "0%",
    },
    "must not be given where operator is Exists": {"operator": "Exists"},
    "must be Exists where no key is given": {"key": None},
    "may be given with effect NoExecute only": {"effect": "NoSchedule"},
    "a higher loadPercent must have a shorter or equal holdsFor": {
        "tripCurve": [{"loadPercent": 110, "holdsFor": "1s"}, {"loadPercent": 120, "holdsFor": "2s"}]
    },
    "releasePercent < capPercent < brakePercent must hold": {"releasePercent": 80},
    "watts must be at most breaker.ratedWatts": {"budget.watts": 200_001},
    "must be given where kind is Disk, and only there": {"path": "/x"},
    "may be given with tokensPerMinute only": {"tokensPerMinute": None},
    "at least one of tokens, cost must be given": {"tokens": None, "cost": None},
    "must be given where mode is Group, and only there": {"mode": "Own"},
    "idleWatts <= minCapWatts <= maxWatts must hold": {"minCapWatts": 701},
    "a secret is given by secretKeyRef, never by value (the name ends with TOKEN, SECRET, PASSWORD, PASSWD, API_KEY, "
    "ACCESS_KEY, SECRET_KEY)": {"name": "MY_TOKEN"},
}

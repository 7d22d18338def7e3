"""How a custom resource's parts are read, and how their rules are written down once for both sides.

The types say what the API server says: an object passes both or fails both. So they read JSON strictly (no "1" for 1),
take null for absent as the server does, and know camelCase names outside and snake_case names inside. A rule over
several fields stands there twice side by side, in CEL for the server and in Python, with one message.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, Strict, alias_generators, model_validator
from pydantic_core import core_schema

GROUP = "penstock.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
VALIDATIONS = "x-kubernetes-validations"

_T = TypeVar("_T")
# A list of JSON, kept as a tuple.
Many = Annotated[tuple[_T, ...], Strict(False)]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule over several fields of one object: `cel` for the API server and `holds` for Python, saying the same.

    `field` is the JSON path below the object that carries the rule, with its leading dot.
    """

    cel: str
    holds: Callable[[Any], bool]
    message: str
    field: str = ""

    def schema(self) -> dict[str, str]:
        """The rule as the API server reads it."""
        shown = {"rule": self.cel, "message": self.message}
        return {**shown, "fieldPath": self.field} if self.field else shown


@dataclasses.dataclass(frozen=True)
class FieldRule:
    """A rule over one field's value, written into its annotation. `extra` goes into the field's schema."""

    cel: str
    holds: Callable[[Any], bool]
    message: str
    extra: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Checks after the field's own type."""
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Adds the rule to the field's schema."""
        return _with_rule(handler(schema) | self.extra, {"rule": self.cel, "message": self.message})

    def _checked(self, value: Any) -> Any:
        if not self.holds(value):
            raise ValueError(self.message)
        return value


@dataclasses.dataclass(frozen=True)
class Immutable:
    """Marks a field that is always there and keeps its first value, or what `cel` and `keeps` say of it."""

    message: str
    cel: str = "self == oldSelf"
    keeps: Callable[[Any, Any], bool] = operator.eq

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Adds the transition rule to the field's schema."""
        return _with_rule(handler(schema), {"rule": self.cel, "message": self.message})


def _with_rule(schema: dict[str, Any], rule: dict[str, str]) -> dict[str, Any]:
    return {**schema, VALIDATIONS: [*schema.get(VALIDATIONS, ()), rule]}


class Part(BaseModel):
    """A part of a custom resource."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        alias_generator=alias_generators.to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: each for key, each in value.items() if each is not None}
        return value

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        broken = [rule for rule in self.RULES if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(f"{rule.field[1:]}: {rule.message}".removeprefix(": ") for rule in broken))
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Adds the rules to the object's schema."""
        shown = handler(schema)
        if cls.RULES:
            handler.resolve_ref_schema(shown)[VALIDATIONS] = [rule.schema() for rule in cls.RULES]
        return shown


def changes_refused(old: BaseModel, new: BaseModel, path: str = "") -> list[str]:
    """What of `new` may not differ from `old`: one `path: message` for each immutable field that was changed."""
    found = []
    for name, field in type(old).model_fields.items():
        before, after = getattr(old, name), getattr(new, name)
        below = f"{path}.{field.alias or name}".removeprefix(".")
        marks = [mark for mark in field.metadata if isinstance(mark, Immutable)]
        broken = [mark for mark in marks if not mark.keeps(before, after)]
        if broken:
            found += [f"{below}: {mark.message}" for mark in broken]
        elif isinstance(before, BaseModel) and isinstance(after, type(before)):
            found += changes_refused(before, after, below)
    return found


def list_map(key: str) -> dict[str, Any]:
    """Schema of a list whose items are told apart by one field: the server merges two writers' items by it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def keyed(key: str) -> FieldRule:
    """A list whose items are told apart by one field, which no two may share."""
    name = alias_generators.to_camel(key)
    return FieldRule(
        f"self.all(x, self.exists_one(y, y.{name} == x.{name}))",
        lambda items: len({getattr(each, key) for each in items}) == len(items),
        f"each {name} may appear once",
        list_map(name),
    )


UNIQUE = FieldRule(
    "self.all(x, self.exists_one(y, y == x))",
    lambda items: len(set(items)) == len(items),
    "each item may appear once",
    {"x-kubernetes-list-type": "set"},
)


def one_of(*fields: str) -> Rule:
    """Exactly one of several optional fields is given."""
    names = [alias_generators.to_camel(field) for field in fields]
    return Rule(
        f"[{', '.join(f'has(self.{name})' for name in names)}].filter(x, x).size() == 1",
        lambda part: sum(getattr(part, field) is not None for field in fields) == 1,
        f"exactly one of {', '.join(names)} must be given",
    )


def in_order(low: str, high: str) -> Rule:
    """One number is at most the other; a number that is not given is no limit."""
    least, most = alias_generators.to_camel(low), alias_generators.to_camel(high)

    def holds(part: Any) -> bool:
        before, after = getattr(part, low), getattr(part, high)
        return before is None or after is None or before <= after

    return Rule(
        f"!has(self.{least}) || !has(self.{most}) || self.{least} <= self.{most}",
        holds,
        f"must be at most {most}",
        f".{least}",
    )


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; a wide one shows with `-o wide` only."""

    name: str
    path: str
    type: Literal["string", "integer", "number", "date", "boolean"] = "string"
    description: str = ""
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a kind is known to the API server."""

    plural: str
    short_name: str
    namespaced: bool
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()
    scaled: bool = False


class ObjectMeta(Part):
    """What is read of metadata; the API server keeps more."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field("", description="Name of the object")
    namespace: str = Field("", description="Namespace of the object")
    uid: str = Field("", description="Identity of the object: a new object of the same name has another")
    generation: int = Field(0, description="Rises with every change of the spec")
    resource_version: str = Field("", description="Version for optimistic concurrency")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations")
    finalizers: Many[str] = Field((), description="What has to be done before the object may go")
    creation_timestamp: str | None = Field(None, description="When the object was created")
    deletion_timestamp: str | None = Field(None, description="When its deletion was asked for")


class Condition(Part):
    """One observation of the object's state, as metav1.Condition."""

    type: str = Field(description="What is observed, such as Ready", max_length=316)
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds; Unknown is neither")
    observed_generation: int = Field(0, ge=0, description="metadata.generation that this was observed for")
    last_transition_time: str = Field(
        description="When the status last changed", max_length=64, json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(
        description="The cause in one CamelCase word",
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        max_length=1024,
    )
    message: str = Field("", description="The cause and the next step in a sentence", max_length=32_768)


class Status(Part):
    """What every kind reports."""

    observed_generation: int = Field(0, ge=0, description="metadata.generation that the status is about")
    conditions: Many[Condition] = Field(
        (),
        description="Observations; Ready says whether the object does what it is for",
        max_length=16,
        json_schema_extra=list_map("type"),
    )


NAME_RULE = Rule(
    "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    lambda it: (
        len(it.metadata.name) <= 40 and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", it.metadata.name) is not None
    ),
    "metadata.name must be 1 to 40 lower-case letters, digits and dashes, beginning with a letter: it becomes part of "
    "the names of Pods and Services",
)


class Resource(Part):
    """A custom resource as a whole. Each kind adds `spec` and `status`."""

    KIND: ClassVar[Kind]
    RULES: ClassVar[tuple[Rule, ...]] = (NAME_RULE,)

    api_version: Literal["penstock.dev/v1alpha1"] = Field(
        "penstock.dev/v1alpha1", description="Version of the schema of this object"
    )
    metadata: ObjectMeta = Field(description="Name, namespace, labels and what the API server keeps of the object")

    @classmethod
    def read(cls, value: dict[str, Any]) -> Self:
        """An object that the API server sent: fields of a newer version are passed over. Raises ValidationError."""
        return cls.model_validate(value, extra="ignore")

    @classmethod
    def written(cls, value: dict[str, Any]) -> Self:
        """An object that a user wrote: an unknown field is a mistake. Raises ValidationError."""
        return cls.model_validate(value)

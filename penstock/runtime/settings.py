"""Settings of a process: file, then environment, then flags; strict, and with errors that can be acted on.

A component `gateway` with a field `redis_url` reads the key `redis_url` of its YAML file, the environment variable
`PENSTOCK_GATEWAY_REDIS_URL` and the flag `redis_url`; a nested field adds `__` (`PENSTOCK_GATEWAY_LOG__LEVEL`). A later
source wins. An unknown key is an error in each of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pydantic
import yaml
from pydantic.fields import FieldInfo

from penstock.runtime import errors

FILE_VERSION = 1
_MASK = "***"


class Settings(pydantic.BaseModel):
    """Base of every component's settings. Frozen; unknown keys are errors; fields carry a description and a unit."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)


S = TypeVar("S", bound=Settings)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the configuration reference."""

    key: str
    env: str
    type: str
    default: str
    description: str


@dataclasses.dataclass(frozen=True)
class _Value:
    """A given value with the name of where it came from."""

    value: Any
    origin: str


def load(
    cls: type[S],
    component: str,
    *,
    file: pathlib.Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> S:
    """Settings from file < environment < flags (of which None means "not given").

    Raises `SettingsError` that names every wrong key, its source, its value and what is allowed.
    """
    given: dict[tuple[str, ...], _Value] = {}
    known = dict(_leaves(cls))
    given.update(_from_file(file, known))
    given.update(_from_env(component, env or {}, known))
    given.update(_from_flags(flags or {}, known))
    tree: dict[str, Any] = {}
    for path, item in given.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = item.value
    try:
        return cls.model_validate(tree)
    except pydantic.ValidationError as exc:
        lines = [_explain(problem, given, known) for problem in exc.errors(include_url=False)]
        raise errors.SettingsError("\n".join(lines)) from None


def describe(cls: type[Settings], component: str) -> list[Row]:
    """Rows of the configuration reference, in the order of the fields."""
    rows = []
    for path, field in _leaves(cls):
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        rows.append(
            Row(
                key=".".join(path),
                env=_env_name(component, path),
                type=_type_name(field),
                default=_MASK if _is_secret(field) and default not in ("required", "unset", "") else default,
                description=field.description or "",
            )
        )
    return rows


def _leaves(cls: type[pydantic.BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every field that is not itself a group of settings, with its path."""
    for name, field in cls.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            yield from _leaves(inner, (*prefix, name))
        else:
            yield (*prefix, name), field


def _env_name(component: str, path: Sequence[str]) -> str:
    return f"PENSTOCK_{component.upper()}_" + "__".join(part.upper() for part in path)


def _from_file(file: pathlib.Path | None, known: Mapping[tuple[str, ...], FieldInfo]) -> dict[tuple[str, ...], _Value]:
    if file is None:
        return {}
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as exc:
        raise errors.SettingsError(f"settings file {file}: {exc.strerror}") from exc
    except yaml.YAMLError as exc:
        raise errors.SettingsError(f"settings file {file} is not YAML: {' '.join(str(exc).split())}") from exc
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise errors.SettingsError(f"settings file {file} must hold a mapping, not a {type(content).__name__}")
    version = content.pop("version", FILE_VERSION)
    if version != FILE_VERSION:
        raise errors.SettingsError(f"version: {version!r} in file {file}; allowed: {FILE_VERSION}")
    out: dict[tuple[str, ...], _Value] = {}
    groups = {path[:depth] for path in known for depth in range(1, len(path))}

    def walk(node: Mapping[Any, Any], prefix: tuple[str, ...]) -> None:
        for name, value in node.items():
            path = (*prefix, str(name))
            if path in groups and isinstance(value, dict):
                walk(value, path)
            elif path in known:
                out[path] = _Value(value, f"file {file}")
            else:
                raise _unknown(".".join(path), f"file {file}", [".".join(key) for key in known])

    walk(content, ())
    return out


def _from_env(
    component: str, env: Mapping[str, str], known: Mapping[tuple[str, ...], FieldInfo]
) -> dict[tuple[str, ...], _Value]:
    names = {_env_name(component, path): path for path in known}
    prefix = f"PENSTOCK_{component.upper()}_"
    out: dict[tuple[str, ...], _Value] = {}
    for name in sorted(env):
        if not name.startswith(prefix):
            continue
        if name not in names:
            raise _unknown(name, "the environment", list(names))
        path = names[name]
        out[path] = _Value(_parse(env[name], known[path]), f"environment variable {name}")
    return out


def _from_flags(flags: Mapping[str, Any], known: Mapping[tuple[str, ...], FieldInfo]) -> dict[tuple[str, ...], _Value]:
    out: dict[tuple[str, ...], _Value] = {}
    for name, value in flags.items():
        if value is None:
            continue
        path = tuple(name.split("."))
        if path not in known:
            raise _unknown(name, "the flags", [".".join(key) for key in known])
        out[path] = _Value(value, "flag --" + name.replace("_", "-").replace(".", "-"))
    return out


def _parse(text: str, field: FieldInfo) -> Any:
    """An environment variable's text; lists and mappings are YAML (`[a, b]`) or a comma-separated list."""
    kinds = _origins(field.annotation)
    if type(None) in kinds and text == "":
        return None
    if not kinds & {list, tuple, dict, set, frozenset}:
        return text
    if text.lstrip().startswith(("[", "{")):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _origins(annotation: Any) -> set[Any]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_origins(arg) for arg in typing.get_args(annotation)))
    return {origin or annotation}


def _unknown(key: str, origin: str, allowed: list[str]) -> errors.SettingsError:
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return errors.SettingsError(f"{key}: unknown key in {origin}{hint} Allowed: {', '.join(sorted(allowed))}")


def _explain(problem: Any, given: Mapping[tuple[str, ...], _Value], known: Mapping[tuple[str, ...], FieldInfo]) -> str:
    """One problem as a line: key, value, source, what is allowed."""
    location = tuple(str(part) for part in problem["loc"])
    path = next((location[:n] for n in range(len(location), 0, -1) if location[:n] in known), location)
    key = ".".join(location) or "settings"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{key}: required, and not given"
    item = given.get(path)
    if item is None:
        return f"{key}: {message}"
    field = known.get(path)
    value = _MASK if field is not None and _is_secret(field) else _shown(item.value)
    allowed = _type_name(field) if field is not None else ""
    return f"{key}: {value} from {item.origin} is not allowed: {message} ({allowed})"


def _is_secret(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    marked = isinstance(extra, dict) and bool(extra.get("secret"))
    return marked or pydantic.SecretStr in _origins(field.annotation)


def _shown(value: Any) -> str:
    from penstock.runtime import logs  # logs' own settings derive from this module

    if value is None:
        return "unset"
    if isinstance(value, pydantic.SecretStr):
        return _MASK if value.get_secret_value() else ""
    if isinstance(value, str):
        return logs.mask_urls(value)
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)


def _type_name(field: FieldInfo) -> str:
    """The field's type and limits in words: `int, ge 1, le 65535`."""
    limits = [
        f"{name} {getattr(item, name)}"
        for item in field.metadata
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")
        if getattr(item, name, None) is not None
    ]
    return ", ".join([_annotation_name(field.annotation), *limits])


def _annotation_name(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("unset" if arg is type(None) else _annotation_name(arg) for arg in args)
    if origin is typing.Annotated:
        return _annotation_name(args[0])
    if origin in (list, tuple, set, frozenset):
        return f"list of {_annotation_name(args[0])}" if args else "list"
    if annotation in (pydantic.SecretStr,):
        return "secret"
    if annotation is pathlib.Path:
        return "path"
    return getattr(annotation, "__name__", str(annotation))

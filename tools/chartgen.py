"""Writes what of the Helm chart is generated: values.yaml, values.schema.json and docs/helm-values.md from the types of the
values, the rules of the operator's roles from operators.rights.

With Helm it also renders `manifests/` for kustomize. `--check` fails on drift; without Helm, that of the manifests is found by
the hash of the chart that they were rendered from. Run from the repository's root with the development environment.
"""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import pydantic
import yaml

sys.path.insert(0, ".")
from operators import rights
from tools.chart import dashboard, rendered, values

CHART = pathlib.Path("helm/penstock")
PAGE = pathlib.Path("docs/helm-values.md")
HEAD = "# Generated from tools/chart/values.py by `python tools/chartgen.py`; do not edit.\n"
# Value whose keys are a component's settings: module and class, and the keys that the chart itself sets.
SETTINGS = {
    "gateway": (
        "router.server.settings",
        "GatewaySettings",
        {"id", "host", "port", "admin_host", "admin_port", "advertise_host", "endpoints", "model", "redis_url",
         "namespace", "api_keys_file", "tls_cert", "tls_key", "limits.drain_s"},
    ),
    "controller": (
        "controller.settings",
        "ControllerSettings",
        {"id", "redis_url", "namespace", "grpc_host", "grpc_port", "grpc_address_file", "tls_cert", "tls_key", "tls_ca",
         "agent_tls",
         "metrics_host", "metrics_port", "host", "ray_address", "ray_address_file", "log_dir", "worker_redis_url_file",
         "worker_temp_dir", "worker_host", "worker_drain_s", "deployments_file", "surge", "unregistered_s", "host_s"},
    ),
    "operator": (
        "operators.settings",
        "OperatorSettings",
        {"id", "redis_url", "redis_secret", "redis_key", "redis_ca_secret", "agent_tls_secret", "pull_secrets", "worker_image",
         "kubeconfig",
         "metrics_host",
         "metrics_port", "metrics_address_file", "lease.name", "lease.namespace"},
    ),
    "nodeAgent": (
        "power.settings",
        "NodeSettings",
        {"id", "redis_url", "namespace", "meters", "sys_dir", "metrics_host", "metrics_port", "metrics_address_file"},
    ),
}  # fmt: skip


def schema() -> dict[str, Any]:
    """JSON schema of the values; the settings of components are those of their types, without what the chart sets."""
    root = values.Chart.model_json_schema()
    found: dict[str, Any] = _inlined(root, root.get("$defs", {}))
    found["$schema"] = "http://json-schema.org/draft-07/schema#"
    # Helm adds it where the chart is part of another.
    found["properties"]["global"] = {"type": "object"}
    for component, (module, name, taken) in SETTINGS.items():
        whole = getattr(importlib.import_module(module), name).model_json_schema()
        allowed = _inlined(whole, whole.get("$defs", {}))
        properties = {key: each for key, each in allowed["properties"].items() if key not in taken}
        for group, _, key in (each.partition(".") for each in taken):
            if key:
                del properties[group]["properties"][key]
        where = found["properties"][component]["properties"]["settings"]
        where.update({"properties": properties, "additionalProperties": False})
    return found


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """The same without references, titles and what only Python means."""
    if isinstance(node, list):
        return [_inlined(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {
            **definitions[node["$ref"].rpartition("/")[2]],
            **{key: each for key, each in node.items() if key != "$ref"},
        }
    kept = {key: each for key, each in node.items() if key not in ("$defs", "format", "writeOnly")}
    if isinstance(kept.get("title"), str):
        del kept["title"]
    return {key: _inlined(each, definitions) for key, each in kept.items()}


def values_yaml() -> str:
    """values.yaml with each value's meaning above it."""
    return HEAD + "\n".join(_lines(values.Chart(), 0)) + "\n"


def _lines(model: pydantic.BaseModel, depth: int) -> Iterator[str]:
    pad = "  " * depth
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if value is None:
            continue
        if depth == 0:
            yield ""
        yield f"{pad}# {field.description}"
        if isinstance(value, pydantic.BaseModel):
            inner = list(_lines(value, depth + 1))
            if inner:
                yield f"{pad}{name}:"
                yield from inner
            else:
                yield f"{pad}{name}: {{}}"
        else:
            yield f"{pad}{name}: {json.dumps(value)}"


def page() -> str:
    """The reference of all values."""
    rows = [
        "# Values of the Helm chart\n\nGenerated from `tools/chart/values.py` by `python tools/chartgen.py`; do not edit. "
        "An unknown key ends\n`helm install` with a message that names it. How to install: "
        "[Installing on Kubernetes](install.md).\n\n| value | default | meaning |\n|---|---|---|\n"
    ]
    rows += [f"| `{key}` | `{default}` | {text} |\n" for key, default, text in _rows(values.Chart(), "")]
    return "".join(rows)


def _rows(model: pydantic.BaseModel, prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in type(model).model_fields.items():
        value, text = getattr(model, name), (field.description or "").replace("|", "\\|")
        if isinstance(value, pydantic.BaseModel):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "unset" if value is None else json.dumps(value), text


def rules(which: tuple[rights.Rule, ...]) -> str:
    """The rules of a role, as the template takes them in."""
    lines = ["# Generated from operators/rights.py by `python tools/chartgen.py`; do not edit."]
    for rule in which:
        lines += [f"# {rule.why[0].upper()}{rule.why[1:]}.", f"- apiGroups: {json.dumps([rule.group])}"]
        lines.append(f"  resources: [{', '.join(rule.resources)}]")
        if rule.names:
            lines.append(f"  resourceNames: [{', '.join(rule.names)}]")
        lines.append(f"  verbs: [{', '.join(rule.verbs)}]")
    return "\n".join(lines) + "\n"


def wanted() -> dict[pathlib.Path, str]:
    """Text of every file that needs no Helm."""
    return {
        CHART / "files" / "operator-rules.yaml": rules(rights.NAMESPACED),
        CHART / "files" / "operator-cluster-rules.yaml": rules(rights.CLUSTER),
        CHART / "files" / "operator-own-rules.yaml": rules(rights.OWN),
        CHART / "dashboards" / "penstock.json": dashboard.render(),
        CHART / "values.yaml": values_yaml(),
        CHART / "values.schema.json": json.dumps(schema(), indent=1) + "\n",
        PAGE: page(),
    }


def main() -> int:
    """Entry point: 0 where the committed files are up to date or were written."""
    check = "--check" in sys.argv
    found = []
    for path, text in wanted().items():
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            found.append(f"{path} differs from tools/chart/values.py: run `make generate`")
    if yaml.safe_load(values_yaml()) != values.Chart().model_dump(exclude_none=True):
        found.append("values.yaml does not read back as the types' defaults")
    found += rendered.check() if check else rendered.write()
    print("\n".join(found), end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())

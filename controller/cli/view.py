"""The fleet as people and machines read it."""

from __future__ import annotations

from typing import Any

import click
from google.protobuf import json_format

from controller.cli import output
from penstock.api.proto import control_pb2

UNKNOWN = "?"
# What a narrow terminal does without, first to last. Reasons of degraded gateways are also below the tables.
DROP = (
    "pid", "engine", "role", "index blocks", "KV blocks", "address", "degraded", "model", "policy", "workers", "cached",
)  # fmt: skip


def problems(fleet: control_pb2.Fleet) -> list[str]:
    """Every reason why the fleet is not as it should be; empty is healthy."""
    out = [f"{item.component}: {item.reason}" for item in fleet.degraded]
    for gateway in fleet.gateways:
        out += [f"{gateway.id}: {reason}" for reason in gateway.degraded]
    for node in fleet.nodes:
        out += [f"node {node.id}: {reason}" for reason in node.degraded]
        if node.silent_s:
            out.append(
                f"node {node.id}: the lease of its agent ended {node.silent_s:.0f} s ago; what it draws is unknown"
            )
    if not fleet.controller.id:
        out.append("controller: nobody leads")
    for deployment in fleet.deployments:
        for pool in deployment.pools:
            if pool.ready < pool.wanted:
                out.append(f"{deployment.name}/{pool.role}: {pool.ready} of {pool.wanted} workers ready")
    return out


def as_json(fleet: control_pb2.Fleet) -> dict[str, Any]:
    """Every field of the API in snake_case, null where unknown, with `healthy` and `problems`."""
    found = problems(fleet)
    body: dict[str, Any] = json_format.MessageToDict(
        fleet, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    for worker in body["workers"]:
        for name in ("lease_left_s", "running", "waiting", "kv_usage", "kv_blocks", "cached_blocks"):
            value = worker.setdefault(name, None)
            # 64-bit numbers are strings in the protobuf JSON form.
            worker[name] = int(value) if isinstance(value, str) else value
        worker["incarnation"] = int(worker["incarnation"])
    for node in body["nodes"]:
        for name in ("lease_left_s", "silent_s", "gpus", "gpu_w", "cpu_w"):
            node.setdefault(name, None)
    for gateway in body["gateways"]:
        gateway.setdefault("lease_left_s", None)
        for name in ("requests_total", "index_blocks", "index_bytes"):
            gateway[name] = int(gateway[name])
    return {"healthy": not found, "problems": found, **body}


def gateway_rows(fleet: control_pb2.Fleet) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows."""
    columns = [
        "gateway",
        "address",
        "pid",
        "policy",
        "lease s",
        "requests",
        "in flight",
        "index blocks",
        "workers",
        "degraded",
    ]
    rows = [
        [
            item.id, item.address, str(item.pid), item.policy, _lease(item), item.requests_total, item.inflight,
            item.index_blocks, item.endpoints, _degraded(item),
        ]
        for item in fleet.gateways
    ]  # fmt: skip
    return columns, rows


def worker_rows(fleet: control_pb2.Fleet) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows."""
    columns = ["worker", "model", "role", "state", "engine", "address", "pid", "lease s", "running", "waiting", "KV used",
               "KV blocks", "cached"]  # fmt: skip
    rows = [
        [
            item.id, item.model, item.role, item.state, item.engine + (" (simulated)" if item.simulated else ""),
            # Before it is ready a worker has no address yet.
            item.address if item.state != "starting" else "-", str(item.pid), _lease(item), _known(item, "running"),
            _known(item, "waiting"), f"{item.kv_usage:.0%}" if item.HasField("kv_usage") else UNKNOWN,
            _known(item, "kv_blocks"), _known(item, "cached_blocks"),
        ]
        for item in fleet.workers
    ]  # fmt: skip
    return columns, rows


def node_rows(fleet: control_pb2.Fleet) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows."""
    columns = ["node", "GPUs", "GPU W", "CPU W", "lease s", "degraded"]
    rows = [
        [
            item.id, _known(item, "gpus"), _watts(item, "gpu_w") if item.gpus or not item.HasField("gpus") else "-",
            _watts(item, "cpu_w"), _lease(item), _degraded(item),
        ]
        for item in fleet.nodes
    ]  # fmt: skip
    return columns, rows


def show(fleet: control_pb2.Fleet) -> None:
    """Prints the fleet: tables on a terminal, plain columns elsewhere."""
    click.echo(headline(fleet))
    for columns, rows in (gateway_rows(fleet), worker_rows(fleet), node_rows(fleet)):
        if rows:
            click.echo()
            output.table(rows, columns, drop=DROP)
    click.echo("\n" + health(fleet))


def health(fleet: control_pb2.Fleet) -> str:
    """`healthy`, or the reasons why not, one per line."""
    found = problems(fleet)
    return "degraded:\n  " + "\n  ".join(found) if found else "healthy"


def headline(fleet: control_pb2.Fleet) -> str:
    """One line on the controller."""
    lead = fleet.controller
    left = f"{lead.lease_left_s:.1f} s of its lease left" if lead.HasField("lease_left_s") else "lease unknown"
    who = f"{lead.id} leads, epoch {lead.epoch}, {left}" if lead.id else "nobody leads"
    return f"Penstock {fleet.version}, namespace {fleet.namespace}; controller {who}"


def _degraded(item: Any) -> str:
    """Without a lease that is known, what it last said need not hold any more."""
    return "; ".join(item.degraded) or ("no" if item.HasField("lease_left_s") else UNKNOWN)


def _lease(item: Any) -> str:
    return f"{item.lease_left_s:.1f}" if item.HasField("lease_left_s") else UNKNOWN


def _watts(item: Any, name: str) -> str:
    return f"{getattr(item, name):.0f}" if item.HasField(name) else UNKNOWN


def _known(item: Any, name: str) -> Any:
    return getattr(item, name) if item.HasField(name) else UNKNOWN

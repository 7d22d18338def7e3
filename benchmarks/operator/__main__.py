"""`python -m benchmarks.operator`: time to look at everything, memory, calls in steady state, time from change to effect."""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import dataclasses
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import psutil

from operators import pods
from penstock.api import types, wire
from penstock.api.crds import schema
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, registry
from penstock.runtime import redis as redis_link
from tests.cluster import api, binaries, control_plane, fakes
from tests.support import custom_resources
from tests.support.operator_process import OperatorProcess, until

MODELS = "/apis/penstock.dev/v1alpha1/modeldeployments"
PODS = "/api/v1/pods?limit=1"
# What a deployment owns beside its Pods.
BESIDE = {
    "revisions": "/apis/apps/v1/controllerrevisions?limit=1",
    "budgets": "/apis/policy/v1/poddisruptionbudgets?limit=1",
    "services": f"/api/v1/services?labelSelector={pods.DEPLOYMENT_LABEL}",
    "slices": f"/apis/discovery.k8s.io/v1/endpointslices?labelSelector={pods.DEPLOYMENT_LABEL}",
}
NAMESPACES = 10


@dataclasses.dataclass(frozen=True)
class Figures:
    """What was measured: s, MB of resident memory, calls a minute; `effect_s` from a change to its Pod, p95."""

    listed_s: float
    memory_mb: float
    calls_per_min: float
    effect_s: float


def say(text: str) -> None:
    """One line of the report."""
    print(text, flush=True)


def namespace(number: int) -> str:
    """Namespace of a deployment."""
    return f"models-{number % NAMESPACES}"


def document(number: int, replicas: int) -> dict[str, Any]:
    """One deployment of simulated workers."""
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": f"m{number}"},
        "spec": {
            "model": {"name": f"model-{number}"},
            "engine": {"kind": "sim", "resources": {"cpu": "10m", "memory": "10Mi"}},
            "replicas": replicas,
        },
    }


def prepare(server: api.Api, nodes: int) -> None:
    """Custom resources, namespaces, nodes."""
    for resource in custom_resources.TYPES.values():
        assert server.apply(schema.definition(resource)).is_success
    for number in range(NAMESPACES):
        name = namespace(number)
        assert server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, "").is_success
    for number in range(nodes):
        made = server.create(fakes.node(f"node-{number}", pods=1000), "")
        assert made.is_success, made.text
    until(lambda: server.get(f"{MODELS}?limit=1").is_success, 30)


def count(server: api.Api, path: str) -> int:
    """Objects of a collection, from one page of it."""
    body = server.get(path).json()
    return len(body["items"]) + int(body["metadata"].get("remainingItemCount", 0))


async def register(url: str, deployments: int, replicas: int) -> None:
    """What the workers' agents would write, under leases that outlast the run."""
    link = redis_link.RedisLink(url, clocks.SystemClock())
    await link.start()
    for number in range(deployments):
        store = registry.RedisRegistry(link.client, wire.Keys(namespace(number)))
        for index in range(replicas):
            record = types.WorkerRecord(
                id=f"m{number}-{index}",
                incarnation=1,
                deployment=f"m{number}",
                model=f"model-{number}",
                endpoint=types.Endpoint(host="10.0.0.1", port=8000),
                state=types.WorkerState.READY,
                engine="sim",
            )
            await store.register(record, 1e6)
    await link.stop()


def filled(server: api.Api, operator: OperatorProcess, wanted: int, replicas: int) -> None:
    """Makes the deployments; returns when all their workers are ready."""
    began_s = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for made in pool.map(lambda n: server.create(document(n, replicas), namespace(n)), range(wanted)):
            assert made.is_success, made.text
    say(f"{wanted} deployments of {replicas} workers made after {time.monotonic() - began_s:.0f} s")
    until(lambda: count(server, PODS) == wanted * replicas, 1800)
    say(f"all Pods made after {time.monotonic() - began_s:.0f} s")
    until(lambda: ready(server, wanted), 1800)
    calls = operator.total("penstock_operator_api_calls_total")
    say(f"all Ready after {time.monotonic() - began_s:.0f} s, {calls:.0f} API calls of the operator")
    say(", ".join(f"{count(server, path)} {name}" for name, path in BESIDE.items()))


def ready(server: api.Api, wanted: int) -> bool:
    """Whether as many deployments say that all their workers are ready."""
    items = server.get(MODELS, timeout=120).json()["items"]
    said = [c for each in items for c in each.get("status", {}).get("conditions", ()) if c["type"] == "Ready"]
    return sum(each["status"] == "True" for each in said) >= wanted


def effects(server: api.Api, deployments: int, replicas: int, times: int) -> list[float]:
    """Seconds from a deployment's change to its new Pod, one after the other."""
    found = []
    for step in range(times):
        number = (step * 7919) % deployments
        where, name = namespace(number), f"m{number}"
        path = f"/apis/penstock.dev/v1alpha1/namespaces/{where}/modeldeployments/{name}/scale"
        pod = f"/api/v1/namespaces/{where}/pods/{name}-{replicas}"
        began_s = time.monotonic()
        assert server.merge(path, {"spec": {"replicas": replicas + 1}}).is_success
        while not server.get(pod).is_success:
            time.sleep(0.01)
        found.append(time.monotonic() - began_s)
    return sorted(found)


def measure(server: api.Api, operator: OperatorProcess, arguments: argparse.Namespace) -> Figures:
    """A new process over everything, its memory, its calls, and single changes."""
    wanted, replicas = arguments.deployments, arguments.replicas
    operator.stop()
    began_s = time.monotonic()
    operator.start()
    until(lambda: operator.metric("penstock_operator_resync_seconds") > 0, 300)
    until(lambda: operator.metric("penstock_operator_queue_depth") == 0, 300)
    took_s = time.monotonic() - began_s
    resync_s = operator.metric("penstock_operator_resync_seconds")
    process = psutil.Process(operator.pid)
    cpu = sum(process.cpu_times()[:2])
    say(
        f"new process: everything listed and looked at after {took_s:.1f} s ({resync_s:.1f} s of it passes, {cpu:.1f} CPU-s)"
    )
    say(f"memory: {process.memory_info().rss / 1e6:.0f} MB RSS")
    before, passes = operator.total("penstock_operator_api_calls_total"), cpu
    time.sleep(arguments.steady_s)
    process_cpu = sum(process.cpu_times()[:2]) - passes
    calls = operator.total("penstock_operator_api_calls_total") - before
    minutes = arguments.steady_s / 60
    say(
        f"steady state: {calls / minutes:.0f} API calls a minute (the Lease), {process_cpu / minutes:.1f} CPU-s a minute"
    )
    found = effects(server, wanted, replicas, arguments.changes)
    late_s = found[int(len(found) * 0.95)]
    say(
        f"change to effect, {len(found)} changes: median {statistics.median(found) * 1e3:.0f} ms, "
        f"p95 {late_s * 1e3:.0f} ms, most {found[-1] * 1e3:.0f} ms"
    )
    memory_mb = process.memory_info().rss / 1e6
    say(f"memory at the end: {memory_mb:.0f} MB RSS")
    return Figures(took_s, memory_mb, calls / minutes, late_s)


def run(arguments: argparse.Namespace, folder: pathlib.Path) -> Figures:
    """The whole. Raises `binaries.Unavailable` where there is no Kubernetes."""
    extras = control_plane.Extras(controllers=True, fake_nodes=True)
    plane = control_plane.ControlPlane(binaries.find(os.environ), folder, extras)
    plane.start()
    wanted, replicas = arguments.deployments, arguments.replicas
    redis = embedded_redis.EmbeddedRedis(folder, clocks.SystemClock())
    runner = asyncio.Runner()
    runner.run(redis.start())
    operator = OperatorProcess(folder, plane.access, redis.url, "operator-0", LEASE__NAMESPACE="default")
    server = api.Api(plane.access)
    try:
        prepare(server, max(1, wanted * replicas // 200 + 1))
        operator.start()
        runner.run(register(redis.url, wanted, replicas))
        filled(server, operator, wanted, replicas)
        return measure(server, operator, arguments)
    finally:
        operator.stop()
        server.close()
        plane.stop()
        runner.run(redis.stop())
        runner.close()


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operator")
    parser.add_argument("--deployments", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=10)
    parser.add_argument("--changes", type=int, default=60)
    parser.add_argument("--steady-s", type=float, default=60.0)
    return parser.parse_args(given)


def main() -> int:
    """Entry point: 0 where every target of a thousand deployments with ten workers is kept, 1 where one is missed."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        found = run(parse(), pathlib.Path(folder))
    missed = [
        f"{name}: {value:.1f}, at most {most:g}"
        for name, value, most in (
            ("everything looked at, s", found.listed_s, 60.0),
            ("memory, MB", found.memory_mb, 1000.0),
            ("change to effect, p95, s", found.effect_s, 2.0),
        )
        if value > most
    ]
    for each in missed:
        say(f"MISSED {each}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())

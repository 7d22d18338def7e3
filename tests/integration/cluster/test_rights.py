"""The operator with exactly the chart's rights, on an API server that writes down who did what."""

from __future__ import annotations

import asyncio
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest
import yaml

from operators import rights
from penstock.api import types, wire
from penstock.runtime import clock as clocks
from penstock.runtime import embedded_redis, processes, redis, registry
from tests.cluster import audit, binaries, control_plane, tools
from tests.support import charts, custom_resources, releases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]
ROOT = pathlib.Path(__file__).parents[3]
ACCOUNT = "system:serviceaccount:ops:pen-penstock-operator"
# Server-side apply of what is not there yet: the server asks for this right, and writes down a patch. That each is needed
# is shown without it.
CREATED_BY_PATCH: frozenset[tuple[str, str, str]] = frozenset({
    ("create", "", "services"),
    ("create", "policy", "poddisruptionbudgets"),
    ("create", "discovery.k8s.io", "endpointslices"),
    ("create", "inference.networking.k8s.io", "inferencepools"),
    ("create", "gateway.networking.k8s.io", "httproutes"),
})  # fmt: skip
PROFILE = {
    "apiVersion": "penstock.dev/v1alpha1",
    "kind": "AcceleratorProfile",
    "metadata": {"name": "h100"},
    "spec": {"resourceName": "nvidia.com/gpu", "memory": "80Gi", "perNode": 8},
}


_PICKER = {"name": "p", "port": {"number": 9002}}
MADE: dict[str, tools.Object] = {
    "services": {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}},
    "poddisruptionbudgets": {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": {"maxUnavailable": 1}},
    "endpointslices": {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": []
    },
    "inferencepools": {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "spec": {
            "selector": {"matchLabels": {"a": "b"}}, "targetPorts": [{"number": 8000}], "endpointPickerRef": _PICKER
        },
    },
    "httproutes": {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "spec": {}},
}  # fmt: skip


class Stage:
    """A cluster with the chart's roles, and operators that run with nothing else."""

    def __init__(self, kube: tools.Tools, log: audit.AuditLog, url: str, folder: pathlib.Path) -> None:
        self.kube, self.log, self.url, self._folder = kube, log, url, folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, picker: str = "pen-penstock-gateway:9002") -> subprocess.Popen[bytes]:
        """An operator process whose only credential is a token of the chart's account."""
        config = yaml.safe_load(pathlib.Path(self.kube.env()["KUBECONFIG"]).read_text())
        token = self.kube.kubectl("create", "token", "pen-penstock-operator").strip()
        config["users"] = [{"name": "test", "user": {"token": token}}]
        file = self._folder / f"{name}.kubeconfig"
        file.write_text(yaml.safe_dump(config))
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PENSTOCK_OPERATOR_ID": name,
            "PENSTOCK_OPERATOR_KUBECONFIG": str(file),
            "PENSTOCK_OPERATOR_REDIS_URL": self.url,
            "PENSTOCK_OPERATOR_WORKER_IMAGE": "penstock-worker-sim:test",
            "PENSTOCK_OPERATOR_PICKER": picker,
            "PENSTOCK_OPERATOR_LEASE__NAMESPACE": "ops",
            "PENSTOCK_OPERATOR_LEASE__DURATION_S": "2",
            "PENSTOCK_OPERATOR_LEASE__RENEW_S": "0.5",
            "PENSTOCK_OPERATOR_BACKOFF_MAX_S": "1",
        }
        log = open(self._folder / f"{name}.log", "ab")  # noqa: SIM115  closed with the process
        argv = processes.die_with_parent([sys.executable, "-m", "operators"])
        self._running.append(subprocess.Popen(argv, cwd=ROOT, env=env, stdout=log, stderr=log))
        return self._running[-1]

    def stop(self) -> None:
        """Ends all of them."""
        for each in self._running:
            if each.poll() is None:
                each.terminate()
        for each in self._running:
            each.wait(30)

    def says(self) -> str:
        """The end of every operator's log."""
        return "\n".join(path.read_text()[-1500:] for path in self._folder.glob("*.log"))

    def until(self, what: str, done: Callable[[], object]) -> None:
        """Waits; fails with what the operators say."""
        try:
            tools.until(what, done, 30.0)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.says()}") from None

    def holder(self) -> str:
        """Who leads."""
        return "".join(each["spec"].get("holderIdentity", "") for each in self.kube.get("lease"))

    def may_apply(self, document: tools.Object) -> bool:
        """Whether the server takes an object by server-side apply as the operator's account; nothing is stored."""
        file = self._folder / "tried.yaml"
        file.write_text(yaml.safe_dump(document | {"metadata": {"name": "tried", "namespace": "ops"}}))
        flags = ("--server-side", "--dry-run=server", "--as", ACCOUNT, "-f", str(file))
        ran = self.kube.run("kubectl", "apply", *flags)
        assert ran.returncode == 0 or "forbidden" in ran.stderr, ran.stderr
        return ran.returncode == 0

    def pods(self) -> dict[str, tools.Object]:
        """Workers by name."""
        return {each["metadata"]["name"]: each for each in self.kube.get("pods", "-l", "penstock.dev/deployment")}


@pytest.fixture
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """With played nodes, the chart's definitions and roles, a Redis, and no operator yet."""
    folder = tmp_path_factory.mktemp("rights")
    log = audit.AuditLog(folder)
    extras = control_plane.Extras(controllers=True, fake_nodes=True, server=log.flags)
    try:
        programs = binaries.find(os.environ)
        plane = control_plane.ControlPlane(programs, tmp_path_factory.mktemp("plane"), extras)
        programs.need("helm", "kuberay-crds", "gateway-api", "inference-extension")
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    server = embedded_redis.EmbeddedRedis(folder / "redis", clocks.SystemClock())
    asyncio.run(server.start())
    made = None
    try:
        plane.start()
        kube = releases.prepare(tools.Tools(programs, plane.kubeconfig, folder), "ops", volumes=0)
        kube.apply_folder(charts.CHART / "crds")
        kube.apply_folder(programs.path("kuberay-crds"))
        kube.apply_folder(programs.path("gateway-api"))
        kube.apply_folder(programs.path("inference-extension"))
        wanted = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
        objects = charts.template(release="pen", namespace="ops")
        kube.apply(*(each for each in objects if each["kind"] in wanted and "hook" not in str(each["metadata"])))
        made = Stage(kube, log, server.url, folder)
        yield made
    finally:
        if made is not None:
            made.stop()
        plane.stop()
        asyncio.run(server.stop())


async def register(url: str, deployment: str, names: Sequence[str]) -> None:
    """What workers write when their engines answer."""
    link = redis.RedisLink(url, clocks.SystemClock())
    await link.start()
    store = registry.RedisRegistry(link.client, wire.Keys("ops"))
    for name in names:
        record = types.WorkerRecord(
            id=name, incarnation=await store.next_incarnation(), deployment=deployment, model="tiny",
            endpoint=types.Endpoint(host="10.0.0.1", port=8000), state=types.WorkerState.READY, engine="sim",
        )  # fmt: skip
        await store.register(record, 600.0)
    await link.stop()


async def leave(url: str) -> list[str]:
    """Workers that were told to drain have drained; their names."""
    link = redis.RedisLink(url, clocks.SystemClock())
    await link.start()
    store = registry.RedisRegistry(link.client, wire.Keys("ops"))
    gone = [each.record for each in await store.snapshot() if each.record.state is types.WorkerState.DRAINING]
    for record in gone:
        await store.deregister(record.id, record.incarnation)
    await link.stop()
    return [record.id for record in gone]


def model(speed: int, replicas: int) -> tools.Object:
    """The ModelDeployment; another speed is another revision."""
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "m"},
        "spec": {
            "model": {"name": "tiny"},
            "engine": {"kind": "sim", "args": [f"--speed={speed}"]},
            "replicas": replicas,
            "drain": {"timeout": "5s"},
            "rollout": {"revisionHistoryLimit": 1},
        },
    }


def walk(stage: Stage) -> None:
    """What operators do in their life: every kind, workers made, drained and deleted, roll-outs, a change of leader."""
    kube = stage.kube
    first = stage.start("operator-a")
    stage.until("one leads", lambda: stage.holder())
    kinds(stage)
    # Somebody else's Pod has the name of the first worker.
    kube.apply(charts.one(charts.template(), "Pod", "-test") | {"metadata": {"name": "m-0"}})
    kube.apply(model(1, 2))
    kube.wait("--for=jsonpath={.status.conditions[0].status}=False", "md/m", timeout_s=30)
    stage.until("the taken name is said", lambda: "m-0" in str(kube.get("md", "m").get("status")))
    kube.kubectl("delete", "pod", "m-0", "--force")
    stage.until("two workers", lambda: set(stage.pods()) >= {"m-0", "m-1"})
    asyncio.run(register(stage.url, "m", ["m-0", "m-1"]))
    kube.wait("--for=condition=Ready", "md/m", timeout_s=30)
    stage.until("Gateways can send through a pool", lambda: kube.get("inferencepools"))
    [pool] = kube.get("inferencepools")
    assert pool["spec"]["endpointPickerRef"]["name"] == "pen-penstock-gateway"
    routed = model(1, 2)
    kube.apply(routed | {"spec": routed["spec"] | {"gateway": {"parentRefs": [{"name": "shared"}]}}})
    stage.until("Gateways have a route to it", lambda: kube.get("httproutes"))
    kube.apply(routed)
    stage.until("the route is taken back", lambda: not kube.get("httproutes"))
    kube.kubectl("scale", "md/m", "--replicas=1")
    stage.until("one has drained", lambda: asyncio.run(leave(stage.url)))
    stage.until("one worker is left", lambda: len(stage.pods()) == 1)
    second = stage.start("operator-b")
    roll_out(stage, 2)
    first.kill()
    stage.until("the other leads", lambda: "operator-b" in stage.holder())
    roll_out(stage, 3)
    stage.until("old revisions are gone", lambda: len(kube.get("controllerrevisions")) == 2)
    kube.kubectl("scale", "md/m", "--replicas=0")
    stage.until("the last worker has drained", lambda: asyncio.run(leave(stage.url)))
    stage.until("its Service has no address", lambda: not kube.get("endpointslices"))
    kube.kubectl("delete", "md/m")
    stage.until("no worker is left", lambda: not stage.pods())
    roles(stage)
    units(stage)
    orphans(stage)
    second.terminate()
    second.wait(30)
    pickerless(stage)


def roles(stage: Stage) -> None:
    """The budget of a role that an older version let go is taken away."""
    one = model(1, 0)
    one["metadata"] = {"name": "r"}
    stage.kube.apply(one)

    def budgets() -> list[tools.Object]:
        found: list[tools.Object] = stage.kube.get("pdb", "-l", "penstock.dev/deployment=r")
        return found

    stage.until("its budget", lambda: len(budgets()) == 1)
    [own] = budgets()
    about = {key: own["metadata"][key] for key in ("labels", "ownerReferences")}
    kind = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget"}
    stage.kube.apply(kind | {"metadata": about | {"name": "r-encode"}, "spec": own["spec"]})
    stage.until("only its own", lambda: [each["metadata"]["name"] for each in budgets()] == [own["metadata"]["name"]])
    stage.kube.kubectl("delete", "md/r")


def orphans(stage: Stage) -> None:
    """What a deployment left that was deleted without its dependents belongs to the next of its name."""
    kube = stage.kube
    left = model(1, 1)
    left["metadata"] = {"name": "o"}
    # Whatever it is written with: the data of its revision stays as it is when its owner is taken out of it.
    left["spec"]["engine"]["env"] = [{"name": "B", "value": "<&>\u2028é"}, {"name": "A", "value": "1"}]
    kube.apply(left)
    stage.until("its worker", lambda: "o-0" in stage.pods())
    kube.kubectl("delete", "md/o", "--cascade=orphan")
    kube.apply(left)

    def adopted() -> bool:
        uid = kube.get("md", "o")["metadata"]["uid"]
        owned = [stage.pods()["o-0"], *kube.get("controllerrevisions", "-l", "penstock.dev/deployment=o")]
        return len(owned) > 1 and all(
            uid in [each["uid"] for each in found["metadata"].get("ownerReferences", ())] for found in owned
        )

    stage.until("worker and revision have an owner again", adopted)


def pickerless(stage: Stage) -> None:
    """An operator of an installation without an endpoint picker takes back the pools."""
    stage.until("a pool is there", lambda: stage.kube.get("inferencepools"))
    third = stage.start("operator-c", picker="")
    stage.until("no pool is left", lambda: not stage.kube.get("inferencepools"))
    stage.kube.kubectl("delete", "md/o")
    stage.until("no worker is left", lambda: not stage.pods())
    third.terminate()
    third.wait(30)


def units(stage: Stage) -> None:
    """Workers of two nodes are RayClusters, those that Ray Serve hosts are RayServices."""
    cluster = {
        "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}}
    }
    stage.kube.apply(PROFILE)
    spread = {
        "model": {"name": "big", "source": {"path": "/models/big"}},
        "engine": {"kind": "vllm", "image": "vllm:test"},
        "accelerators": [{"profile": "h100"}],
        "parallelism": {"tensor": 8, "pipeline": 2, "nodes": 2},
    }
    of_ray(stage, "RayCluster", cluster, spread)
    served = {"model": {"name": "big"}, "engine": {"kind": "sim", "image": "ray:test"}, "hosting": "RayServe"}
    of_ray(stage, "RayService", {"serveConfigV2": "", "rayClusterConfig": cluster}, served)


def of_ray(stage: Stage, kind: str, foreign: tools.Object, spec: tools.Object) -> None:
    """Workers of a kind of KubeRay's are made, drained and deleted; one whose name somebody has is looked at."""
    kube, plural = stage.kube, f"{kind.lower()}s"
    kube.apply({"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": "big-0"}, "spec": foreign})
    about = {"apiVersion": "penstock.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "big"}}
    kube.apply(about | {"spec": spec | {"replicas": 2}})
    stage.until("the taken name is said", lambda: "big-0" in str(kube.get("md", "big").get("status")))
    kube.kubectl("delete", plural, "big-0")
    stage.until("two units", lambda: len(kube.get(plural, "-l", "penstock.dev/deployment=big")) == 2)
    asyncio.run(register(stage.url, "big", ["big-0", "big-1"]))
    kube.kubectl("scale", "md/big", "--replicas=1")
    stage.until("one has drained", lambda: asyncio.run(leave(stage.url)))
    stage.until("one unit is left", lambda: len(kube.get(plural)) == 1)
    kube.kubectl("delete", "md/big")
    stage.until("no unit is left", lambda: not kube.get(plural))


def kinds(stage: Stage) -> None:
    """Objects of every other kind come, are looked at, and go."""
    documents = [each for each in custom_resources.valid() if each["kind"] != "ModelDeployment"]
    for number, document in enumerate(documents):
        stage.kube.apply(document | {"metadata": {"name": f"thing-{number}"}})
    for kind in ("loraadapters", "powerdomains", "kvcachetiers", "tenants"):
        for each in stage.kube.get(kind):
            name = f"{kind}/{each['metadata']['name']}"
            stage.kube.wait("--for=jsonpath={.status.conditions[0].reason}=NotYetImplemented", name, timeout_s=30)
        stage.kube.kubectl("delete", kind, "--all")


def roll_out(stage: Stage, speed: int) -> None:
    """The only worker is replaced by one of a new revision."""
    old = set(stage.pods())
    stage.kube.apply(model(speed, 1))
    stage.until("a worker of the new revision", lambda: set(stage.pods()) - old)
    asyncio.run(register(stage.url, "m", sorted(set(stage.pods()) - old)))
    stage.until("the old worker has drained", lambda: old <= set(asyncio.run(leave(stage.url))))
    stage.until("only the new worker is left", lambda: len(stage.pods()) == 1 and not set(stage.pods()) & old)


def allowed() -> set[tuple[str, str, str]]:
    """Every verb on every resource that the roles give, as (verb, group, resource)."""
    return {
        (verb, rule.group, resource)
        for rule in (*rights.NAMESPACED, *rights.CLUSTER, *rights.OWN)
        for resource in rule.resources
        for verb in rule.verbs
    }


def test_the_operator_has_the_rights_that_it_uses_and_no_others(stage: Stage) -> None:
    """Over a walk through what it does, nothing is denied, and no right of the chart's roles stays unused."""
    walk(stage)
    stage.stop()
    calls = list(stage.log.calls(ACCOUNT))
    denied = sorted({(each.verb, each.group, each.resource) for each in calls if not each.allowed})
    used = {(each.verb, each.group, each.resource) for each in calls if each.allowed}
    unused = sorted(allowed() - used - CREATED_BY_PATCH)
    print(
        f"{len(calls)} calls, {len(used)} of {len(allowed())} rights used, {len(denied)} denied, {len(unused)} unused"
    )
    assert len(calls) > 50
    assert denied == [], stage.says()
    assert unused == [], unused


def test_a_missing_right_is_seen(stage: Stage) -> None:
    """The measure is able to fail: without the right to tell, telling is what is denied, and workers are made all the same."""
    role = stage.kube.get("clusterrole", "pen-penstock-operator-ops")
    for rule in role["rules"]:
        if rule["resources"] == ["events"]:
            rule["verbs"] = ["get"]
    about = {"apiVersion": role["apiVersion"], "kind": role["kind"], "metadata": {"name": role["metadata"]["name"]}}
    stage.kube.apply(about | {"rules": role["rules"]})
    stage.start("operator-a")
    stage.kube.apply(model(1, 2))
    stage.until("two workers", lambda: len(stage.pods()) == 2)
    stage.until("something is denied", lambda: any(not each.allowed for each in stage.log.calls(ACCOUNT)))
    denied = {(each.verb, each.resource) for each in stage.log.calls(ACCOUNT) if not each.allowed}
    assert denied == {("create", "events")}


def test_what_is_made_by_server_side_apply_needs_the_right_to_create(stage: Stage) -> None:
    """With the chart's roles the server takes each kind as the operator's account; without `create` it refuses just that."""
    kube = stage.kube
    role = kube.get("clusterrole", "pen-penstock-operator-ops")

    def taken() -> set[tuple[str, str, str]]:
        return {each for each in CREATED_BY_PATCH if stage.may_apply(MADE[each[2]])}

    assert taken() == CREATED_BY_PATCH
    kinds = {(group, resource) for _, group, resource in CREATED_BY_PATCH}
    rules = []
    for rule in role["rules"]:
        for resource in rule["resources"]:
            within = (rule["apiGroups"][0], resource) in kinds
            verbs = [each for each in rule["verbs"] if not (within and each == "create")]
            rules.append(rule | {"resources": [resource], "verbs": verbs})
    about = {"apiVersion": role["apiVersion"], "kind": role["kind"], "metadata": {"name": role["metadata"]["name"]}}
    kube.apply(about | {"rules": rules})
    stage.until("none is taken", lambda: taken() == set())

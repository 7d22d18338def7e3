"""Workers of several nodes as one unit, and what a deployment owns beside its workers."""

from __future__ import annotations

import dataclasses
import http.server
import pathlib
import shlex
import subprocess
import sys
import threading
from typing import Any

import pytest
import yaml

from operators import cache, objects, pods, revisions, sight, units
from operators.policy import workers
from penstock.api.crds import acceleratorprofile, modeldeployment
from penstock.api.types import WorkerState
from workers.hosting import spec as hosting

HOST = pods.WorkerHost("penstock:test", "redis", "url", "vllm:test")
CREATE = workers.Create("m-0", "unified", "r1", "h100")
START = "2026-01-01T00:00:00Z"
READY = "2026-01-01T00:10:00Z"


def deployment(**spec: Any) -> modeldeployment.ModelDeployment:
    """Sixteen accelerators on two nodes."""
    return modeldeployment.ModelDeployment.written(
        {
            "metadata": {"name": "m", "namespace": "models", "uid": "u"},
            "spec": {
                "model": {"name": "big", "source": {"path": "/models/big"}},
                "accelerators": [{"profile": "h100"}],
                "parallelism": {"tensor": 8, "pipeline": 2, "nodes": 2},
                **spec,
            },
        }
    )


def profile() -> acceleratorprofile.AcceleratorProfile:
    """H100 nodes."""
    spec = {"resourceName": "nvidia.com/gpu", "memory": "80Gi", "perNode": 8}
    return acceleratorprofile.AcceleratorProfile.written({"metadata": {"name": "h100"}, "spec": spec})


def test_a_worker_of_two_nodes_is_one_ray_cluster() -> None:
    """The head serves when all nodes have joined; each node has its part of the accelerators; only the head has an agent."""
    kind, found = units.document(deployment(), CREATE, HOST, profile())
    assert (kind, found["kind"]) == (sight.UNIT, "RayCluster")
    head = found["spec"]["headGroupSpec"]["template"]["spec"]
    [group] = found["spec"]["workerGroupSpecs"]
    [rank] = group["template"]["spec"]["containers"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 1
    assert [each["name"] for each in head["containers"]] == ["engine", "agent"]
    for container in (head["containers"][0], rank):
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert "$KUBERAY_GEN_RAY_START_CMD" in container["command"][2]
    command = head["containers"][0]["command"][2]
    assert "< 2)" in command and command.index("until") < command.index("exec vllm serve")
    assert "--distributed-executor-backend ray" in command and "vllm serve" not in rank["command"][2]
    assert "readinessProbe" not in rank


def test_a_rank_stays_until_the_engine_has_ended(tmp_path: pathlib.Path) -> None:
    """Its hook ends soon after the head's engine does not answer any more, and not while it does, with its name gone too."""
    _, found = units.document(deployment(), CREATE, HOST, profile())
    [rank] = found["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    *_, script = rank["lifecycle"]["preStop"]["exec"]["command"]
    begin = shlex.split(rank["command"][2].partition(";")[0])
    assert begin[:2] == ["python3", "-c"]

    def here(text: str) -> list[str]:
        assert "/tmp/penstock-head" in text
        return [sys.executable, "-c", text.replace("/tmp/penstock-head", str(tmp_path / "head"))]

    subprocess.run(here(begin[2]), env={"FQ_RAY_IP": "localhost"}, check=True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        text = script.replace(":8000/health", f":{server.server_port}/health")
        assert text != script
        hook = subprocess.Popen(here(text), env={"FQ_RAY_IP": "gone.invalid"})
        with pytest.raises(subprocess.TimeoutExpired):
            hook.wait(2.5)
        server.shutdown()
    assert hook.wait(10) == 0


class _Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()


def rank(name: str, kind: str, *, made: str = START, phase: str = "Running", **status: Any) -> dict[str, Any]:
    """A Pod of the unit."""
    labels = {pods.WORKER_LABEL: "m-0", "ray.io/node-type": kind, pods.DEPLOYMENT_LABEL: "m"}
    owner = {"kind": "RayCluster", "name": "m-0", "uid": "unit", "controller": True}
    meta = {
        "name": name,
        "namespace": "models",
        "labels": labels,
        "creationTimestamp": made,
        "ownerReferences": [owner],
    }
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": READY}]
    return {"metadata": meta, "status": {"phase": phase, "conditions": conditions, "podIP": "10.0.0.9", **status}}


def seen(*ranks: dict[str, Any]) -> sight.Seen:
    """The unit with these Pods."""
    _, unit = units.document(deployment(), CREATE, HOST, profile())
    unit["metadata"] |= {"creationTimestamp": START, "uid": "unit"}
    return sight.Seen({"metadata": {"uid": "u"}}, {sight.UNIT.plural: [unit]}, ranks)


HEAD = rank("h", "head")
RESTARTED = {"containerStatuses": [{"name": "rank", "restartCount": 1}]}


@pytest.mark.parametrize(
    ("ranks", "state", "broken"),
    [
        ((HEAD, rank("w", "worker")), WorkerState.READY, False),
        ((HEAD,), WorkerState.READY, True),
        ((HEAD,), WorkerState.STARTING, False),
        ((HEAD,), None, False),
        ((HEAD, rank("w", "worker", phase="Failed")), WorkerState.READY, True),
        ((HEAD, rank("w", "worker", made="2026-01-01T00:20:00Z")), WorkerState.READY, True),
        ((HEAD, rank("w", "worker", **RESTARTED)), WorkerState.READY, True),
        ((rank("w", "worker"),), WorkerState.READY, False),
    ],
)
def test_a_lost_rank_breaks_the_unit(
    ranks: tuple[dict[str, Any], ...], state: WorkerState | None, broken: bool
) -> None:
    """Missing, failed, replaced or restarted after the engine was ready; before that it is only starting."""
    states = {"m-0": state} if state else {}
    [worker] = units.observed(seen(*ranks), states, registry=True, default_revision="r1")
    assert worker.broken is broken
    assert (worker.name, worker.revision) == ("m-0", "r1")


def test_a_broken_unit_is_built_anew() -> None:
    """The whole unit is deleted, and there is another as soon as its accelerators are free."""
    [worker] = units.observed(seen(HEAD), {"m-0": WorkerState.READY}, registry=True, default_revision="r1")
    desired = workers.Desired("m", (workers.Pool("unified", 1, surge=0, unavailable=1),), 60.0)
    plan = workers.reconcile(desired, workers.Observed((worker,)), 0.0, workers.Rolling("r1"))
    assert [type(each).__name__ for each in plan.commands] == ["Delete"]
    plan = workers.reconcile(desired, workers.Observed(()), 0.0, workers.Rolling("r1"))
    assert [type(each).__name__ for each in plan.commands] == ["Create"]


def of_another(found: dict[str, Any], **meta: Any) -> dict[str, Any]:
    """The Pod of a unit before this one, of the same name."""
    owner = found["metadata"]["ownerReferences"][0] | {"uid": "before"}
    return found | {"metadata": found["metadata"] | {"ownerReferences": [owner], **meta}}


def test_pods_of_a_unit_before_do_not_break_this_one() -> None:
    """They end while the new one begins, and the registry may still know the name as ready."""
    late = rank("w", "worker", made="2026-01-01T00:20:00Z")
    found = seen(of_another(HEAD), of_another(late))
    [worker] = units.observed(found, {"m-0": WorkerState.READY}, registry=True, default_revision="r1")
    assert (worker.broken, worker.ready, worker.phase) == (False, False, workers.Phase.PENDING)
    assert units.addresses(found) == {}


@pytest.mark.parametrize(
    ("meta", "until_s"), [({}, None), ({"deletionTimestamp": READY}, pods.unix_s(READY))], ids=["unseen", "ending"]
)
def test_a_unit_that_is_gone_keeps_its_name_until_its_pods_are(meta: dict[str, Any], until_s: float | None) -> None:
    """Its accelerators as well: another unit waits for them, and has another name."""
    labels = HEAD["metadata"]["labels"] | {pods.ROLE_LABEL: "unified"}
    found = sight.Seen({"metadata": {"uid": "u"}}, {}, (of_another(HEAD, labels=labels, **meta),))
    [left] = units.observed(found, {"m-0": WorkerState.READY}, registry=True, default_revision="r1")
    assert (left.name, left.deleting, left.live, left.gone_by_s) == ("m-0", True, False, until_s)
    desired = workers.Desired("m", (workers.Pool("unified", 1, surge=0, unavailable=1),), 60.0)
    plan = workers.reconcile(desired, workers.Observed((left,)), 0.0, workers.Rolling("r1"))
    assert plan.commands == () and "1 workers wait" in plan.held
    desired = workers.Desired("m", (workers.Pool("unified", 1, surge=1),), 60.0)
    [made] = workers.reconcile(desired, workers.Observed((left,)), 0.0, workers.Rolling("r1")).commands
    assert isinstance(made, workers.Create) and made.worker == "m-1"


def test_the_head_is_the_units_address() -> None:
    """The Service leads to the head."""
    assert units.addresses(seen(HEAD, rank("w", "worker"))) == {"m-0": ("10.0.0.9", HEAD["metadata"]["name"])}


def member(name: str, **changes: Any) -> workers.Worker:
    """A worker that takes requests."""
    given = {"ready": True, "registered": WorkerState.READY, **changes}
    return workers.Worker(name, "unified", workers.Phase.RUNNING, 0.0, **given)


def test_slices_hold_who_serves() -> None:
    """Ready ones are ready, draining ones serve and end, those that start are left out; slices are bounded."""
    members = [
        member("m-0"),
        member("m-1", ready=False, draining_since_s=1.0, registered=WorkerState.DRAINING),
        member("m-2", ready=False, registered=WorkerState.STARTING),
        member("m-3"),
    ]
    addresses = {"m-0": "10.0.0.1", "m-1": "10.0.0.2", "m-2": "10.0.0.3", "m-3": "fd00::1"}
    places = {name: (address, f"{name}-head") for name, address in addresses.items()}
    four, six = objects.slices(deployment(), members, places)
    shown = [(each["targetRef"]["name"], each["conditions"]["ready"]) for each in four["endpoints"]]
    assert shown == [("m-0-head", True), ("m-1-head", False)]
    assert (six["addressType"], len(six["endpoints"])) == ("IPv6", 1)
    many = [member(f"m-{n}") for n in range(250)]
    sizes = [
        len(each["endpoints"])
        for each in objects.slices(
            deployment(), many, {f"m-{n}": (f"10.0.{n // 250}.{n % 250}", "p") for n in range(250)}
        )
    ]
    assert sizes == [100, 100, 50]


def test_what_the_server_adds_is_no_difference() -> None:
    """Defaults beside the wanted fields are left alone; a changed, missing or shortened one is a difference."""
    wanted = {"spec": {"ports": [{"port": 1}], "a": 1}}
    assert objects.covers(wanted, {"spec": {"ports": [{"port": 1, "protocol": "TCP"}], "a": 1, "b": 2}, "status": {}})
    for found in (
        None,
        {"spec": {"a": 1}},
        {"spec": {"ports": [], "a": 1}},
        {"spec": {"ports": [{"port": 2}], "a": 1}},
    ):
        assert not objects.covers(wanted, found)


@pytest.mark.parametrize(
    ("fields", "stay"),
    [
        ({"replicas": 4}, 3),
        ({"replicas": 1}, 0),
        ({"replicas": 0}, 0),
        ({"replicas": 2, "roles": [{"name": "unified", "replicas": 3}]}, 5),
        ({"replicas": 10, "placement": {"disruptionBudget": {"maxUnavailable": "25%"}}}, 7),
        ({"replicas": 3, "parallelism": {"tensor": 16, "nodes": 2}}, 5),
    ],
)
def test_a_budget_says_how_many_pods_have_to_stay(fields: dict[str, Any], stay: int) -> None:
    """All of a role's Pods but as many as may be away: a unit is broken by one rank that is."""
    (budget,) = objects.budgets(deployment(**{"accelerators": [], "parallelism": {}, **fields}))
    assert budget["spec"]["minAvailable"] == stay
    assert "maxUnavailable" not in budget["spec"]


def test_every_kind_of_owned_object_is_found_by_its_label() -> None:
    """What is made bears the label by which the copies find it."""
    made = [
        *objects.budgets(deployment()),
        objects.service(deployment()),
        units.document(deployment(), CREATE, HOST, profile())[1],
    ]
    made += objects.slices(deployment(), [member("m-0")], {"m-0": ("10.0.0.1", "m-0")})
    assert all(sight.by_label(each) == [("models", "m")] for each in made)
    assert all(cache.owner_uid(each) == "u" for each in made)


def test_a_revision_that_is_written_back_is_the_same_revision() -> None:
    """Undo leads to the hash that is kept, whatever was changed in between; the counts stay."""
    first = deployment(
        replicas=2, roles=[{"name": "unified", "args": ["--a=1"], "replicas": 3}], placement={"schedulerName": "x"}
    )
    data = revisions.template(first)
    second = deployment(replicas=7, kvCache={"dtype": "fp8"}, parallelism={"tensor": 2}, accelerators=[])
    back = revisions.applied(second, data)
    assert revisions.name_of(revisions.template(back)) == revisions.name_of(data)
    assert revisions.name_of(revisions.template(second)) != revisions.name_of(data)
    assert (back.spec.replicas, back.spec.roles[0].replicas) == (7, 1)


def test_counts_and_the_manner_of_replacing_are_no_revision() -> None:
    """Scaling, draining, roll-out settings and fields that say their default change nothing about the workers."""
    name = revisions.name_of(revisions.template(deployment()))
    same: list[dict[str, Any]] = [
        {"replicas": 5}, {"drain": {"timeout": "1h"}}, {"rollout": {"paused": True}}, {"engine": {"kind": "vllm"}},
        {"placement": {"disruptionBudget": {"maxUnavailable": 3}}}, {"priority": 5}, {"hosting": "Pods"},
    ]  # fmt: skip
    for each in same:
        assert revisions.name_of(revisions.template(deployment(**each))) == name, each
    for other in ({"engine": {"image": "x"}}, {"placement": {"schedulerName": "x"}}, {"kvCache": {"events": False}}):
        assert revisions.name_of(revisions.template(deployment(**other))) != name, other


def test_a_worker_of_ray_serve_is_one_application() -> None:
    """The application's argument is a worker's specification; its engine and Serve's proxy have ports of their own."""
    served = deployment(hosting="RayServe", engine={"kind": "sim", "image": "ray:x"}, parallelism={}, accelerators=[])
    kind, found = units.document(served, CREATE, HOST, None)
    assert (kind, found["kind"]) == (sight.SERVED, "RayService")
    config = yaml.safe_load(found["spec"]["serveConfigV2"])
    [application] = config["applications"]
    wanted = hosting.WorkerSpec.model_validate_json(application["args"]["spec"])
    assert (wanted.id, wanted.host, wanted.drains_by_registry, wanted.revision) == ("m-0", "auto", True, "r1")
    assert wanted.engine.settings["port"] != config["http_options"]["port"]
    [container] = found["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert (ports["serve"], ports["http"]) == (config["http_options"]["port"], wanted.engine.settings["port"])


def test_ray_serve_hosts_an_engine_that_is_a_program() -> None:
    """The replica starts it by the command that a Pod's container has, on all GPUs of the Pod, behind the same download."""
    hub = {"hub": {"repo": "org/model"}}
    one = {
        "model": {"name": "big", "source": hub}, "parallelism": {"tensor": 8}, "engine": {"kind": "vllm", "image": "ray-vllm:x"}
    }  # fmt: skip
    _, found = units.document(deployment(hosting="RayServe", **one), CREATE, HOST, profile())
    pod = found["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    [application] = yaml.safe_load(found["spec"]["serveConfigV2"])["applications"]
    told = hosting.WorkerSpec.model_validate_json(application["args"]["spec"])
    _, apart = units.document(deployment(**one), CREATE, HOST, profile())
    engine = next(each for each in apart["spec"]["containers"] if each["name"] == "engine")
    assert list(told.command) == engine["command"]
    assert (told.engine_url, told.engine.kind, told.num_gpus) == ("http://127.0.0.1:8000", "vllm", 8)
    assert told.kv_events == "tcp://127.0.0.1:5557" and told.control_port is None
    [container] = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert {each["name"]: each for each in engine["volumeMounts"]}.items() <= {
        each["name"]: each for each in container["volumeMounts"]
    }.items()
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    assert pod["initContainers"][0]["command"] == ["python", "-m", "workers.download"]
    names = [each["name"] for each in container["env"]]
    assert len(names) == len(set(names)) and {"HF_HUB_OFFLINE", "RAY_TMPDIR"} <= set(names)


@pytest.mark.parametrize("kind", ["sim", "vllm"])
def test_the_agents_api_is_there_under_ray_serve(kind: str) -> None:
    """Where the installation names its Secret, the replica gets port and files; else neither."""
    served = deployment(hosting="RayServe", engine={"kind": kind, "image": "ray:x"}, parallelism={}, accelerators=[])

    def made(host: pods.WorkerHost) -> tuple[hosting.WorkerSpec, dict[str, Any]]:
        _, found = units.document(served, CREATE, host, None)
        [application] = yaml.safe_load(found["spec"]["serveConfigV2"])["applications"]
        told = hosting.WorkerSpec.model_validate_json(application["args"]["spec"])
        return told, found["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]

    told, pod = made(dataclasses.replace(HOST, agent_tls_secret="agents"))
    assert told.control_port == 8002
    mount = {"name": "agent-tls", "mountPath": str(told.control_tls), "readOnly": True}
    assert mount in pod["containers"][0]["volumeMounts"]
    assert {"name": "agent-tls", "secret": {"secretName": "agents", "optional": True}} in pod["volumes"]
    told, pod = made(HOST)
    assert told.control_port is None and "agent-tls" not in str(pod)


@pytest.mark.parametrize(("hosting_", "most"), [("RayServe", 47), ("Pods", 53)])
def test_a_name_that_kuberay_does_not_take_is_refused(hosting_: str, most: int) -> None:
    """With how long it is and how long it may be; the longest that it takes is made."""
    more = {"parallelism": {}, "accelerators": []} if hosting_ == "RayServe" else {}
    engine = {"kind": "vllm", "image": "ray:x"}
    wanted = deployment(hosting=hosting_, engine=engine, **more)
    for letters in (most, most + 1):
        create = dataclasses.replace(CREATE, worker="m" * letters)
        if letters == most:
            assert units.document(wanted, create, HOST, profile())[1]["metadata"]["name"] == create.worker
        else:
            with pytest.raises(
                pods.UnsupportedError, match=f"{letters} letters, and KubeRay takes a Ray.* of at most {most}"
            ):
                units.document(wanted, create, HOST, profile())

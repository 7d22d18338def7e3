"""The Pod that a worker gets, and what is read of one."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from operators import build, engines, pods
from operators.policy import workers
from penstock.api.crds import modeldeployment
from penstock.api.types import WorkerState
from tests.support import custom_resources as support
from workers.hosting import sim_engine
from workers.hosting import spec as hosting

HOST = pods.WorkerHost("penstock:test", "redis")


def simulated(**spec: Any) -> modeldeployment.ModelDeployment:
    """The whole first example, but with a simulated engine."""
    document = support.valid()[0]
    document["metadata"] |= {"namespace": "models", "uid": "u-1"}
    engine = {"kind": "sim", "profile": "cpu-tiny", "args": ["--speed=10", "--max-num-seqs=8"]}
    document["spec"] |= {"engine": engine, "roles": [{"name": "unified", "args": ["--speed=20"]}], **spec}
    return modeldeployment.ModelDeployment.written(document)


def built(**spec: Any) -> dict[str, Any]:
    """Its first Pod."""
    return build.pod(simulated(**spec), workers.Create("llama-hub-0", "unified"), HOST)


def test_the_worker_understands_its_specification() -> None:
    """What the Pod hands to the worker is a valid specification, with the engine's flags; a role's flag wins."""
    variables = {each["name"]: each for each in built()["spec"]["containers"][0]["env"]}
    text = variables["PENSTOCK_WORKER_SPEC"]["value"].replace("$(POD_IP)", "10.0.0.7")
    spec = hosting.WorkerSpec.model_validate_json(text)
    assert (spec.id, spec.namespace, spec.drain_s, spec.host) == ("llama-hub-0", "models", 900.0, "10.0.0.7")
    settings = sim_engine.settings_of(spec)
    assert (settings.port, settings.speed, settings.max_num_seqs) == (engines.ENGINE_PORT, 20.0, 8)
    names = list(variables)
    assert names.index("POD_IP") < names.index("PENSTOCK_WORKER_SPEC"), "Kubernetes fills in what stands before"


def test_no_secret_is_in_the_pod() -> None:
    """The registry's URL and variables from Secrets are references."""
    env = [{"name": "HF_TOKEN", "secretKeyRef": {"name": "hub", "key": "token"}}]
    engine = {"kind": "sim", "env": env}
    variables = {each["name"]: each for each in built(engine=engine)["spec"]["containers"][0]["env"]}
    assert variables["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert variables["PENSTOCK_WORKER_REDIS_URL"]["valueFrom"] == {"secretKeyRef": {"name": "redis", "key": "url"}}
    assert "value" not in variables["PENSTOCK_WORKER_REDIS_URL"]


def test_the_pod_may_drain_and_start_as_long_as_it_was_granted() -> None:
    """The grace period holds the drain, the startup probe the start's time limit, also where minutes are many."""
    found = built(engine={"kind": "sim", "startTimeout": "45m"}, drain={"timeout": "15m"})
    assert found["spec"]["terminationGracePeriodSeconds"] == 930
    probe = found["spec"]["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 2700
    assert found["spec"]["restartPolicy"] == "OnFailure"


def test_placement_reaches_the_pod() -> None:
    """Selectors, tolerations, spread, classes and secrets are the Pod's own fields; what is not given is not there."""
    spec = built()["spec"]
    assert spec["nodeSelector"] == {"example.com/pool": "gpu"}
    assert spec["tolerations"][0]["tolerationSeconds"] == 30
    assert spec["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"][pods.DEPLOYMENT_LABEL] == "llama-hub"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert set(built(placement={})["spec"]) == {
        "restartPolicy",
        "terminationGracePeriodSeconds",
        "automountServiceAccountToken",
        "enableServiceLinks",
        "securityContext",
        "containers",
    }


def pod_of(phase: str = "Running", *, ready: bool = True, **metadata: Any) -> dict[str, Any]:
    """A Pod as the API server gives it."""
    found = json.loads(json.dumps(built()))
    found["metadata"] |= {"creationTimestamp": "2026-01-01T00:00:00Z", **metadata}
    found["status"] = {"phase": phase, "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    return found


@pytest.mark.parametrize(
    ("found", "state", "registry", "ready"),
    [
        (pod_of(), WorkerState.READY, True, True),
        (pod_of(), WorkerState.STARTING, True, False),
        (pod_of(), None, True, False),
        (pod_of(), None, False, True),
        (pod_of(ready=False), WorkerState.READY, True, False),
    ],
)
def test_ready_is_what_pod_and_registry_say(
    found: dict[str, Any], state: WorkerState | None, registry: bool, ready: bool
) -> None:
    """A worker is ready where its Pod is and the registry routes to it; the Pod alone while that cannot be asked."""
    assert pods.observed(found, state, registry).ready is ready


def test_drain_and_deletion_are_read() -> None:
    """The drain's beginning is on the Pod, so that an operator that starts anew knows it."""
    stamp = pods.timestamp(1_767_225_600.0)
    found = pod_of(annotations={pods.DRAIN_ANNOTATION: stamp}, deletionTimestamp="2026-01-01T00:01:00Z")
    seen = pods.observed(found, None, True)
    assert (seen.draining_since_s, seen.deleting, seen.created_s) == (1_767_225_600.0, True, 1_767_225_600.0)


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
                ]
            },
            "Unschedulable: 0/3 nodes",
        ),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]},
            "ImagePullBackOff: no such image",
        ),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "x"}}}]},
            "CreateContainerConfigError: x",
        ),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        ({}, ""),
    ],
)
def test_what_keeps_a_pod_from_running_is_read(status: dict[str, Any], problem: str) -> None:
    """No node, no image, no Secret: the cause in Kubernetes' own words."""
    found = pod_of("Pending")
    found["status"] = {"phase": "Pending", **status}
    seen = pods.observed(found, None, True)
    cause, _, step = seen.problem.partition(" -> ")
    assert (cause, seen.phase, seen.ready) == (problem, workers.Phase.PENDING, False)
    assert bool(step) == bool(problem), "the next step is named"


@pytest.mark.parametrize(
    ("age_s", "phase", "said"), [(59, "Pending", False), (61, "Pending", True), (61, "Failed", False)]
)
def test_volumes_that_do_not_come_are_said_after_a_minute(age_s: float, phase: str, said: bool) -> None:
    """Kubernetes has no reason for a container that waits for them: where to read it is the step."""
    found = pod_of("Pending")
    at_s = 1_767_225_600.0
    found["status"] = {
        "phase": phase,
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": pods.timestamp(at_s)},
            {"type": "PodReadyToStartContainers", "status": "False"},
        ],
    }
    seen = pods.observed(found, None, True, now_s=at_s + age_s)
    assert ("volumes" in seen.problem and "kubectl describe pod" in seen.problem, seen.faulty) == (said, False)


def test_what_happens_to_the_agent_is_told_and_no_fault_of_the_worker() -> None:
    """It ends where Redis is away; a revision is not to be given up for that."""
    found = pod_of("Running")
    waits = {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}, "restartCount": 7}
    found["status"]["containerStatuses"] = [{"name": "engine", "restartCount": 1}, {"name": "agent", **waits}]
    seen = pods.observed(found, None, True)
    assert (seen.problem.partition(":")[0], seen.faulty, seen.restarts) == ("CrashLoopBackOff", False, 1)
    pulled = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}}
    found["status"]["containerStatuses"] = [{"name": "agent", **waits}, {"name": "engine", **pulled}]
    seen = pods.observed(found, None, True)
    assert (seen.problem.partition(":")[0], seen.faulty) == ("ImagePullBackOff", True)


def test_a_pod_that_a_kubelet_refuses_is_named() -> None:
    """With its reason: nothing else tells it."""
    found = pod_of("Failed")
    found["status"] = {"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource"}
    seen = pods.observed(found, None, True)
    assert seen.problem.startswith("OutOfcpu: Node didn't have enough resource -> ")


def test_the_ca_of_redis_is_mounted_where_there_is_one() -> None:
    """A worker has the Secret's files where the URL names them; without one it has no volume."""
    plain = built()["spec"]
    assert "volumes" not in plain and "volumeMounts" not in plain["containers"][0]
    with_ca = dataclasses.replace(HOST, redis_ca_secret="ca")
    spec = build.pod(simulated(), workers.Create("m-0", "unified"), with_ca)["spec"]
    assert spec["volumes"] == [{"name": "redis-ca", "secret": {"secretName": "ca"}}]
    assert spec["containers"][0]["volumeMounts"][0]["mountPath"] == pods.REDIS_CA_FOLDER


@pytest.mark.parametrize(("name", "code", "ended"), [("agent", 0, True), ("agent", 1, False), ("engine", 0, False)])
def test_an_agent_that_ended_well_has_drained_its_worker(name: str, code: int, ended: bool) -> None:
    """One that failed is started again; an engine that ended well is told, for nobody starts it again."""
    found = pod_of()
    found["status"]["containerStatuses"] = [{"name": name, "state": {"terminated": {"exitCode": code}}}]
    seen = pods.observed(found, None, True)
    assert seen.ended is ended
    assert seen.engine_ended is seen.faulty is (name == "engine")
    assert (
        "the engine has ended with exit code 0 -> read why with `kubectl logs llama-hub-0 -c engine`" in seen.problem
    ) is (name == "engine")

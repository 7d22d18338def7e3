"""Workers cannot ask the API server, whatever makes their Pods: so they cannot wait for it either."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from operators import pods, units
from operators.policy import workers
from penstock.api.crds import acceleratorprofile, modeldeployment

HOST = pods.WorkerHost("penstock:test", "redis", "url", "vllm:test", "redis-ca")
H100 = {"accelerators": [{"profile": "h100"}]}
BIG = {"name": "big", "source": {"hub": {"repo": "org/big", "revision": "abc"}}}
KINDS: dict[str, dict[str, Any]] = {
    "simulated": {"engine": {"kind": "sim"}},
    "vLLM": {"model": BIG, "engine": {"kind": "vllm"}, **H100},
    "SGLang": {"model": BIG, "engine": {"kind": "sglang", "image": "sglang:test"}, **H100},
    "two nodes": {"model": BIG, "parallelism": {"tensor": 8, "pipeline": 2, "nodes": 2}, **H100},
    "Ray Serve": {"hosting": "RayServe", "engine": {"kind": "sim", "image": "ray:test"}},
}


def pod_specs(document: Any) -> Iterator[dict[str, Any]]:
    """Every Pod's specification within an object."""
    if isinstance(document, dict):
        if "containers" in document:
            yield document
        for each in document.values():
            yield from pod_specs(each)
    elif isinstance(document, list):
        for each in document:
            yield from pod_specs(each)


@pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS.keys())
def test_no_worker_gets_a_token(spec: dict[str, Any]) -> None:
    """No token is mounted, no account of its own is named, and the Services of the cluster are not told as variables."""
    deployment = modeldeployment.ModelDeployment.written(
        {"metadata": {"name": "m", "namespace": "models", "uid": "u"}, "spec": {"model": {"name": "big"}, **spec}}
    )
    meta, sizes = {"name": "h100"}, {"resourceName": "nvidia.com/gpu", "memory": "80Gi", "perNode": 8}
    profile = acceleratorprofile.AcceleratorProfile.written({"metadata": meta, "spec": sizes})
    create = workers.Create("m-0", "unified", "r1", "h100" if "accelerators" in spec else "")
    _, document = units.document(deployment, create, HOST, profile if "accelerators" in spec else None)
    found = list(pod_specs(document))
    assert len(found) == (2 if "parallelism" in spec else 1)
    for each in found:
        assert each["automountServiceAccountToken"] is False
        assert "serviceAccountName" not in each
        assert "serviceAccountToken" not in json.dumps(each) and "kubeconfig" not in json.dumps(each).lower()

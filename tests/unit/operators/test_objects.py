"""What a deployment owns beside its workers."""

from __future__ import annotations

from operators import objects
from penstock.api.crds import modeldeployment


def test_a_pool_names_workers_and_who_chooses() -> None:
    """Its selector is the deployment's label, its picker the Service that the settings name; it goes with the deployment."""
    deployment = modeldeployment.ModelDeployment.read(
        {
            "metadata": {"name": "m", "namespace": "n", "uid": "u"},
            "spec": {"model": {"name": "tiny"}, "engine": {"kind": "sim"}},
        }
    )
    pool = objects.pool(deployment, "pen-gateway:9002")
    assert (pool["metadata"]["name"], pool["metadata"]["ownerReferences"][0]["uid"]) == ("m", "u")
    assert pool["spec"] == {
        "selector": {"matchLabels": {"penstock.dev/deployment": "m"}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "pen-gateway", "port": {"number": 9002}, "failureMode": "FailClose"},
    }

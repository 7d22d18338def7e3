"""Which passes changes make due."""

from __future__ import annotations

import ssl

import pytest

from operators import copies, kube, loop, pods, sight
from penstock.api.crds import modeldeployment
from penstock.runtime import clock as clocks


@pytest.mark.parametrize("kind", sight.WORKERS, ids=lambda kind: kind.name)
async def test_what_the_registry_says_of_a_worker_is_looked_at_at_once(kind: sight.Kind) -> None:
    """Whatever the worker is: a Pod, or a unit that has another name than its Pods."""
    marked: list[loop.Key] = []
    client = kube.KubeClient("https://127.0.0.1:1", ssl.create_default_context(), "")
    found = copies.Copies(client, clocks.ManualClock(), (), marked.append)
    meta = {"name": "m-0", "namespace": "n", "resourceVersion": "1", "labels": {pods.DEPLOYMENT_LABEL: "m"}}
    found.owned[kind].store.put({"metadata": meta})
    found.workers_changed("n", {"m-0", "unknown"})
    assert marked == [(modeldeployment.ModelDeployment, "n", "m")]
    await client.close()

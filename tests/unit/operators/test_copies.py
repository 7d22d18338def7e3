"""Which passes changes make due."""

from __future__ import annotations

import ssl

import pytest

from operators import copies, fleets, kube, loop, main, pods, published, sight
from penstock.api.crds import modeldeployment
from penstock.runtime import clock as clocks
from penstock.runtime import registry


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


@pytest.mark.parametrize(
    ("named", "namespace", "expected"),
    [((), "anywhere", True), (("n", "o"), "n", True), (("n", "o"), "elsewhere", False), (("n", "o"), "o", False)],
    ids=["all", "one of those named", "not named", "refused"],
)
async def test_where_passes_are_made(named: tuple[str, ...], namespace: str, expected: bool) -> None:
    """Everywhere, or in the namespaces that are named, but those whose deployments the server does not list."""
    client = kube.KubeClient("https://127.0.0.1:1", ssl.create_default_context(), "")
    found = copies.Copies(client, clocks.ManualClock(), named, lambda key: None)
    refused = sight.DEPLOYMENT.path("o")
    found.deployments.refused = lambda path: path == refused  # type: ignore[method-assign]
    assert found.looks_after(namespace) is expected
    await client.close()


async def test_what_is_told_and_gone_is_looked_at() -> None:
    """Of what this operator looks after: the others' are theirs, and what is there is looked at anyway."""
    told = published.InMemory()
    for namespace, name in (("n", "here"), ("n", "gone"), ("elsewhere", "gone")):
        document = {"metadata": {"name": name, "namespace": namespace}, "spec": {"model": {"name": "m"}}}
        document["spec"]["engine"] = {"kind": "sim"}  # type: ignore[assignment]
        await told.put(modeldeployment.ModelDeployment.written(document))
    clock = clocks.ManualClock()
    known = fleets.Followed(lambda namespace: registry.MemoryRegistry(clock), None, clock, lambda *_: None)
    tidy = main.Tidy(known, told, lambda namespace: namespace == "n")
    there: loop.Key = (modeldeployment.ModelDeployment, "n", "here")
    assert await tidy({there}) == [(modeldeployment.ModelDeployment, "n", "gone")]

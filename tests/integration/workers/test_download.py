"""Model files from a hub and from an object store, both real HTTP servers."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from penstock.runtime import errors
from tests.support import model_servers
from tests.support.model_servers import FILES, Server
from workers import download, model_files
from workers.sources import hub, s3


@pytest.fixture
def server() -> Iterator[Server]:
    """Started."""
    with model_servers.running() as found:
        yield found


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Its files, without its own marks."""
    found = [each for each in folder.rglob("*") if each.is_file() and not each.name.startswith(".")]
    return {str(each.relative_to(folder)): each.read_bytes() for each in found}


def test_a_hub_is_fetched_once(server: Server, tmp_path: pathlib.Path) -> None:
    """What an engine reads, and no other framework's weights; the second worker of the node finds it."""
    wanted = download.Wanted(folder=tmp_path / "k", repo="org/model", revision="abc", endpoint=server.url)
    source = hub.Hub("org/model", "abc", server.url, "secret")
    assert download.bring(wanted, source)
    assert contents(tmp_path / "k") == FILES
    assert server.auth == {"Bearer secret"}
    before = len(server.asked)
    assert not download.bring(wanted, source)
    assert len(server.asked) == before


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> pytest.MonkeyPatch:
    """An environment without credentials of any kind."""
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


def keys(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """A key pair of a Secret."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")


def web_identity(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """What EKS puts into Pods of a ServiceAccount with a role (IRSA)."""
    (tmp_path / "token").write_text("a.web.token")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/models")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)


def pod_identity(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """What the agent of EKS Pod Identity puts there."""
    (tmp_path / "token").write_text("a.web.token")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))


@pytest.mark.parametrize(
    ("given", "key"), [(keys, "AKIA"), (web_identity, "ASIAWEB"), (pod_identity, "ASIAPOD"), (None, "")]
)
def test_a_store_is_listed_page_by_page(
    given: Callable[[Server, pytest.MonkeyPatch, pathlib.Path], None] | None,
    key: str,
    server: Server,
    nobody: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    """Every object below the prefix, with requests signed by what the Pod has; unsigned where it has nothing."""
    nobody.setenv("AWS_ENDPOINT_URL_S3", server.url)
    if given is not None:
        given(server, nobody, tmp_path)
    wanted = download.Wanted(folder=tmp_path / "k", uri="s3://bucket/llama")
    assert download.bring(wanted, s3.Bucket.of("s3://bucket/llama", None))
    assert contents(tmp_path / "k") == FILES
    signed = {each for each in server.auth if each.startswith("AWS4-HMAC-SHA256")}
    assert all(each.startswith(f"AWS4-HMAC-SHA256 Credential={key}/") for each in signed)
    assert bool(signed) == bool(key)


@pytest.mark.parametrize("uri", ["gs://bucket/llama", "s3://bucket/llama"])
def test_another_store_is_shown_nothing_of_amazons(
    uri: str, server: Server, nobody: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """A Pod with a role of Amazon's asks for a public bucket of Google's, or of one at an address of its own."""
    web_identity(server, nobody, tmp_path)
    assert dict(s3.Bucket.of(uri, server.url).files()) == {each: len(FILES[each]) for each in FILES}
    assert server.auth == {""}


def test_what_a_role_may_not_read_may_be_public(
    server: Server, nobody: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Another account's bucket: the role's own policy says no, and everybody may."""
    web_identity(server, nobody, tmp_path)
    nobody.setenv("AWS_ENDPOINT_URL_S3", server.url)
    server.forbidden = "ASIAWEB"
    wanted = download.Wanted(folder=tmp_path / "k", uri="s3://bucket/llama")
    assert download.bring(wanted, s3.Bucket.of("s3://bucket/llama", None))
    assert contents(tmp_path / "k") == FILES


def test_keys_that_may_not_read_are_not_set_aside(
    server: Server, nobody: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Who gave a Secret hears that it does not do."""
    keys(server, nobody, tmp_path)
    server.forbidden = "AKIA"
    with pytest.raises(errors.TerminalError, match="bucket bucket: 403"):
        s3.Bucket.of("s3://bucket/llama", server.url).files()


def test_a_body_that_ends_early_is_asked_for_again(
    server: Server, nobody: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Nothing that is half a file stays."""
    server.cuts = 1
    wanted = download.Wanted(folder=tmp_path / "k", uri="s3://bucket/llama")
    assert download.bring(wanted, s3.Bucket.of("s3://bucket/llama", server.url))
    assert contents(tmp_path / "k") == FILES and server.cuts == 0


@pytest.mark.parametrize(
    ("variables", "endpoint", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": "AKIA"}, None, "Partial credentials"),
        ({"AWS_PROFILE": "none"}, None, "config profile"),
        ({}, "no address", "Invalid endpoint"),
    ],
)
def test_what_was_given_wrongly_is_said(
    variables: dict[str, str], endpoint: str | None, said: str, nobody: pytest.MonkeyPatch
) -> None:
    """As an error of the download's own, not as a traceback."""
    for name, value in variables.items():
        nobody.setenv(name, value)
    with pytest.raises(errors.TerminalError, match=f"s3://bucket/llama: .*{said}"):
        s3.Bucket.of("s3://bucket/llama", endpoint)


def test_what_is_no_bucket_is_said(server: Server, nobody: pytest.MonkeyPatch) -> None:
    """Once: it will not pass."""
    with pytest.raises(errors.TerminalError, match="bucket none: 404"):
        list(s3.Bucket.of("s3://none/llama", server.url).files())
    assert server.asked == ["/none"]


def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: pathlib.Path) -> None:
    """A refusal that passes costs time and nothing else."""
    server.failures = 1
    wanted = download.Wanted(folder=tmp_path / "k", repo="org/model", revision="abc", endpoint=server.url)
    assert download.bring(wanted, hub.Hub("org/model", "abc", server.url, ""))


def test_a_failed_download_leaves_nothing(server: Server, tmp_path: pathlib.Path) -> None:
    """The folder is there in full or not at all, and the error says which URL."""
    wanted = download.Wanted(folder=tmp_path / "k", repo="org/none", revision="abc", endpoint=server.url)
    with pytest.raises(errors.TerminalError, match="org/none.*404"):
        download.bring(wanted, hub.Hub("org/none", "abc", server.url, ""))
    assert not (tmp_path / "k").exists()
    assert [each.name for each in tmp_path.iterdir()] == [".k.lock"]


def kept(folder: pathlib.Path, age_s: float) -> None:
    """A model that was used so long before another that is long ago."""
    folder.mkdir()
    (folder / "weights").write_bytes(b"x" * 4000)
    for mark in (".complete", ".used"):
        (folder / mark).touch()
    stamp = 1_700_000_000 - age_s
    os.utime(folder / ".used", (stamp, stamp))


def test_the_limit_of_a_cache_is_kept(server: Server, tmp_path: pathlib.Path) -> None:
    """The model that was used longest ago goes, the others stay."""
    for age, name in ((100, "old"), (50, "young")):
        kept(tmp_path / name, age)
    wanted = download.Wanted(
        folder=tmp_path / "k", repo="org/model", revision="abc", endpoint=server.url, size_limit_bytes=8000
    )
    assert download.bring(wanted, hub.Hub("org/model", "abc", server.url, ""))
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_dir()) == ["k", "young"]


def test_a_model_that_is_in_use_is_left(server: Server, tmp_path: pathlib.Path) -> None:
    """The agent beside the engine holds it: the next oldest goes, and where all are held none does."""
    held = []
    for age, name in ((100, "oldest"), (50, "older")):
        kept(tmp_path / name, age)

    def bring(name: str) -> list[str]:
        wanted = download.Wanted(
            folder=tmp_path / name, repo="org/model", revision="abc", endpoint=server.url, size_limit_bytes=8000
        )
        assert download.bring(wanted, hub.Hub("org/model", "abc", server.url, ""))
        return sorted(each.name for each in tmp_path.iterdir() if each.is_dir())

    held.append(model_files.hold(tmp_path / "oldest"))
    assert bring("k") == ["k", "oldest"]
    held.append(model_files.hold(tmp_path / "k"))
    assert None not in held
    assert bring("l") == ["k", "l", "oldest"]
    for each in held:
        assert each is not None
        each.close()
    assert "oldest" not in bring("m")
    assert model_files.hold(tmp_path / "nothing") is None


def test_what_was_left_half_done_is_removed(server: Server, tmp_path: pathlib.Path) -> None:
    """By a download or a removal that was killed, of models whose download does not run; what is somebody else's stays."""
    key, busy, old = "0123456789abcdef", "a" * 16, "b" * 16
    stays = {f".{busy}-xyz", f".{key}-new", ".hf-cache", ".old-gone"}
    for name in (f".{key}-abcd", f".{old}-gone", f".{old}-xyz", *stays):
        (tmp_path / name / "files").mkdir(parents=True)
        for each in (tmp_path / name / "files", tmp_path / name):
            if not name.endswith("-new"):
                os.utime(each, (1_700_000_000, 1_700_000_000))
    wanted = download.Wanted(folder=tmp_path / key, repo="org/model", revision="abc", endpoint=server.url)
    with model_files.alone(tmp_path / busy, wait=True):
        assert download.bring(wanted, hub.Hub("org/model", "abc", server.url, ""))
        assert {each.name for each in tmp_path.iterdir() if each.is_dir()} == {key, *stays}


def test_a_removal_that_is_cut_short_leaves_no_half_of_a_model(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is left of it is not taken for the model, nor held."""
    kept(tmp_path / "old", 100)
    waiting = open(tmp_path / "old" / ".used", "rb")  # noqa: SIM115  as one that is about to hold it
    monkeypatch.setattr(model_files.shutil, "rmtree", lambda *_, **__: None)
    assert model_files.remove(tmp_path / "old")
    assert not (tmp_path / "old").exists() and (tmp_path / ".old-gone" / "weights").exists()
    assert os.fstat(waiting.fileno()).st_nlink == 0
    waiting.close()


def test_a_download_that_is_told_to_end_leaves_nothing(server: Server, tmp_path: pathlib.Path) -> None:
    """SIGTERM in the middle of a file, as process 1 of a container too."""
    server.stalls = True
    folder = tmp_path / "k"
    wanted = {"folder": str(folder), "repo": "org/model", "revision": "abc", "endpoint": server.url}
    environ = os.environ | {download.ENV: json.dumps(wanted)}
    process = subprocess.Popen([sys.executable, "-m", "workers.download"], env=environ)
    while not any(each.name.startswith(".k-") for each in tmp_path.iterdir()):
        time.sleep(0.05)
    process.terminate()
    assert process.wait(10) == 143
    server.stalls = False
    assert [each.name for each in tmp_path.iterdir()] == [".k.lock"]


def test_a_folder_of_the_node_that_is_another_users_is_named(
    server: Server, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what mends it. Root, as which tests may run, could write everywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    wanted = download.Wanted(folder=tmp_path / "k", repo="org/model", revision="abc", endpoint=server.url)
    with pytest.raises(errors.TerminalError, match=f"cannot be written by user {os.getuid()} -> on the node: chown"):
        download.bring(wanted, hub.Hub("org/model", "abc", server.url, ""))

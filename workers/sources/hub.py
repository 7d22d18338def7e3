"""A model hub that speaks Hugging Face's protocol."""

from __future__ import annotations

import json
import pathlib
import urllib.parse
from collections.abc import Iterator

from penstock.runtime import errors
from workers.sources import http

DEFAULT = "https://huggingface.co"
# Weights in other frameworks' formats, which no engine here reads.
_LEFT_OUT = (".h5", ".msgpack", ".ot", ".onnx", ".gguf")


class Hub:
    """One repository at one revision."""

    def __init__(self, repo: str, revision: str, endpoint: str | None, token: str) -> None:
        self._base = (endpoint or DEFAULT).rstrip("/")
        self._repo, self._revision = repo, urllib.parse.quote(revision, safe="")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def files(self) -> Iterator[tuple[str, int]]:
        """All but other frameworks' weights. A repository with safetensors has its `.bin` twins left out."""
        url = f"{self._base}/api/models/{self._repo}/revision/{self._revision}?blobs=true"
        try:
            listed = json.loads(http.get(url, self._headers))["siblings"]
        except (ValueError, KeyError) as exc:
            raise errors.TerminalError(f"{self._base} does not answer as a hub does") from exc
        names = {each["rfilename"]: int(each.get("size") or 0) for each in listed}
        left_out = _LEFT_OUT + ((".bin", ".pth", ".pt") if any(name.endswith(".safetensors") for name in names) else ())
        for name, size in sorted(names.items()):
            if not name.endswith(left_out):
                yield name, size

    def fetch(self, name: str, target: pathlib.Path) -> None:
        """One file."""
        url = f"{self._base}/{self._repo}/resolve/{self._revision}/{urllib.parse.quote(name)}"
        http.save(url, self._headers, target)

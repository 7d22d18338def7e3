"""A hub and an object store with one model, as a real HTTP server."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator

FILES = {"config.json": b"{}", "model.safetensors": b"w" * 3000, "sub/tokenizer.json": b"[]"}

_KEYS = {"SecretAccessKey": "s", "Expiration": "2100-01-01T00:00:00Z"}


class Server(http.server.ThreadingHTTPServer):
    """A hub with one repository, and a store with one bucket; it notes what was asked."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Handler)
        self.asked: list[str] = []
        self.auth: set[str] = set()
        self.failures = 0
        # Whose signed requests are refused.
        self.forbidden = ""
        # So many bodies end in the middle.
        self.cuts = 0
        # Files do not come.
        self.stalls = False

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.server_address[0]!s}:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GETs."""

    server: Server

    def do_GET(self) -> None:
        """One request."""
        path, _, query = self.path.partition("?")
        self.server.asked.append(path)
        self.server.auth.add(self.headers.get("Authorization", ""))
        if self.server.forbidden and self.server.forbidden in self.headers.get("Authorization", ""):
            self._say(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif self.server.failures:
            self.server.failures -= 1
            self._say(503, b"")
        elif path == "/api/models/org/model/revision/abc":
            names = [*FILES, "pytorch_model.bin", "model.onnx"]
            siblings = [{"rfilename": name, "size": len(FILES.get(name, b""))} for name in names]
            self._say(200, json.dumps({"siblings": siblings}).encode())
        elif path.startswith("/org/model/resolve/abc/"):
            while self.server.stalls:
                time.sleep(0.05)
            self._say(200, FILES[path.removeprefix("/org/model/resolve/abc/")])
        elif path == "/credentials":
            self._say(200, json.dumps(_KEYS | {"AccessKeyId": "ASIAPOD", "Token": "t"}).encode())
        elif path == "/bucket":
            self._say(200, _page(urllib.parse.parse_qs(query)))
        elif path.startswith("/bucket/llama/"):
            self._say(200, FILES[path.removeprefix("/bucket/llama/")], cut=self.server.cuts > 0)
        else:
            self._say(404, b"")

    def do_POST(self) -> None:
        """What a token service answers to a web identity."""
        self.rfile.read(int(self.headers["Content-Length"]))
        fields = {**_KEYS, "AccessKeyId": "ASIAWEB", "SessionToken": "t"}
        inside = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
        result = (
            f"<AssumeRoleWithWebIdentityResult><Credentials>{inside}</Credentials></AssumeRoleWithWebIdentityResult>"
        )
        self._say(200, f"<AssumeRoleWithWebIdentityResponse>{result}</AssumeRoleWithWebIdentityResponse>".encode())

    def _say(self, status: int, body: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cut:
            self.server.cuts -= 1
            self.close_connection = True
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _page(query: dict[str, list[str]]) -> bytes:
    """One key a page, as ListObjectsV2 does with many."""
    names = sorted(FILES)
    index = int(query.get("continuation-token", ["0"])[0])
    truncated = "<IsTruncated>true</IsTruncated>"
    more = f"{truncated}<NextContinuationToken>{index + 1}</NextContinuationToken>" if index + 1 < len(names) else ""
    key = f"<Contents><Key>{query['prefix'][0]}{names[index]}</Key><Size>{len(FILES[names[index]])}</Size></Contents>"
    space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    return f"<ListBucketResult {space}>{key}{more}</ListBucketResult>".encode()


@contextlib.contextmanager
def running(host: str = "127.0.0.1") -> Iterator[Server]:
    """Started; its thread is in the caller's network."""
    found = Server(host)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        found.shutdown()
        found.server_close()
        thread.join()

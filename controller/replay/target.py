"""Where requests go: an OpenAI server's address, and the request heads that it gets."""

import dataclasses
import socket
import ssl
import urllib.parse
from collections.abc import Mapping

AGENT = "penstock-replay"


class TargetError(Exception):
    """The URL cannot be used, or nothing usable answers there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """An OpenAI server. `prefix` is the path in front of `/v1`; `tls` is None for plain HTTP."""

    host: str
    port: int
    prefix: str
    tls: ssl.SSLContext | None

    @property
    def authority(self) -> str:
        """Host and port as a `Host` header and a message give them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """A request head up to its `Content-Length`, which the caller adds with the blank line."""
        lines = [f"{method} {self.prefix}{path} HTTP/1.1", f"Host: {self.authority}", f"User-Agent: {AGENT}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n").encode("latin-1")


def parse(url: str) -> Target:
    """The target of `http://host[:port][/prefix][/v1]` or https. Raises `TargetError`."""
    parts = urllib.parse.urlsplit(url if "//" in url else f"http://{url}")
    try:
        port = parts.port
    except ValueError as exc:
        raise TargetError(f"target {url!r}: {exc}") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TargetError(f"target {url!r} is not a URL like http://127.0.0.1:8080 or https://host/prefix")
    if parts.username or parts.query or parts.fragment:
        raise TargetError("the target may hold a host, a port and a path, nothing else")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Target(parts.hostname, port or (443 if tls else 80), prefix, tls)


def headers(api_key: str | None, extra: Mapping[str, str]) -> dict[str, str]:
    """Headers that every request carries. Raises `TargetError` for a header that HTTP cannot carry."""
    found = {"Content-Type": "application/json", **extra}
    if api_key:
        found["Authorization"] = f"Bearer {api_key}"
    for name, value in found.items():
        text = name + value
        if not name or any(char in text for char in "\r\n\0") or not text.isascii() or " " in name:
            raise TargetError(f"header {name!r} cannot be sent: a control character or a letter outside ASCII")
    return found


def no_delay(transport: object) -> None:
    """Send small writes at once: a request must not wait for an acknowledgement of the one before."""
    sock = transport.get_extra_info("socket")  # type: ignore[attr-defined]
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

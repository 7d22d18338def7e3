"""What the head of a client's request says: who asks, what goes on to the engine, and whether it is the last one again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, final

import xxhash

from penstock.api.errors import Reason
from router.policy import profiles

if TYPE_CHECKING:
    from collections.abc import Mapping

# Headers of the client's hop, or that this gateway sets itself.
_DROPPED = frozenset((
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect", b"http2-settings",
    b"x-request-id", b"x-penstock-policy", b"x-penstock-endpoint",
))  # fmt: skip
_MAX_ID_BYTES = 128
_LENGTH = b"content-length:"
_MAX_DIGITS = 18


class RefusedError(Exception):
    """A head that cannot be served; `param` names the header."""

    def __init__(self, reason: Reason, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.param = param


class Keys:
    """API keys, kept as SHA-256 digests; an empty set lets everybody in."""

    def __init__(self, tenants: Mapping[bytes, str]) -> None:
        # digest of the key -> tenant
        self._tenants = dict(tenants)

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._tenants)

    def tenant_of(self, authorization: bytes) -> str | None:
        """Tenant of an `Authorization` header, None where the key is unknown."""
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        return self._tenants.get(hashlib.sha256(key.strip()).digest())


@final
class Prepared:
    """What a request's headers come to; good for every request with the same ones.

    `forwarded` are those that go on to the engine; `request_id` is empty where the client gave none that can be used;
    `session` is a hash of `x-session-id`.
    """

    __slots__ = ("forwarded", "headers", "profile", "request_id", "session", "tenant")

    def __init__(
        self,
        headers: list[tuple[bytes, bytes]],
        forwarded: bytes,
        request_id: bytes,
        tenant: str,
        profile: profiles.Profile | None,
        session: int | None,
    ) -> None:
        self.headers = headers
        self.forwarded = forwarded
        self.request_id = request_id
        self.tenant = tenant
        self.profile = profile
        self.session = session


def prepare(headers: list[tuple[bytes, bytes]], keys: Keys) -> Prepared:
    """What `headers` (names in lower case, the length left out) come to. Raises RefusedError."""
    kept: list[bytes] = []
    request_id = authorization = session = b""
    profile: profiles.Profile | None = None
    for name, value in headers:
        if name in _DROPPED:
            if name == b"x-request-id":
                request_id = value
            elif name == b"x-penstock-policy":
                try:
                    profile = profiles.by_name(value.decode("latin-1"))
                except profiles.UnknownProfileError as exc:
                    raise RefusedError(Reason.BAD_REQUEST, str(exc), "x-penstock-policy") from exc
            continue
        if name == b"authorization":
            authorization = value
            if keys.required:
                continue
        elif name == b"x-session-id":
            session = value
        kept.append(name + b": " + value + b"\r\n")
    if not request_id.isascii() or len(request_id) > _MAX_ID_BYTES or b" " in request_id:
        request_id = b""
    tenant = ""
    if keys.required:
        found = keys.tenant_of(authorization)
        if found is None:
            raise RefusedError(Reason.UNAUTHORIZED, "a valid API key is needed: Authorization: Bearer KEY")
        tenant = found
    return Prepared(headers, b"".join(kept), request_id, tenant, profile, session_of(session) if session else None)


def session_of(name: bytes) -> int:
    """The number that stands for a session's name."""
    return xxhash.xxh3_64_intdigest(name)


@final
class RepeatedHead:
    """A head that was parsed and served: the same bytes with another length need no parser.

    Clients send the same head with every request of a connection, so most requests are read by one comparison.
    """

    __slots__ = ("_after", "_before", "body_at", "length", "path", "prepared")

    def __init__(self, before: bytes, after: bytes, path: bytes, prepared: Prepared) -> None:
        self._before = before
        self._after = after
        self.path = path
        self.prepared = prepared
        # Of the head that matched last: length of its body, and where that begins.
        self.length = 0
        self.body_at = 0

    def match(self, data: bytes) -> bool:
        """Whether `data` begins with this head; then `length` and `body_at` say where its body is."""
        before = self._before
        if not data.startswith(before):
            return False
        start = len(before)
        end = data.find(b"\r", start, start + _MAX_DIGITS + 1)
        if end < 0 or not data.startswith(self._after, end):
            return False
        digits = data[start:end]
        if not digits.isdigit():
            return False
        self.length = int(digits)
        self.body_at = end + len(self._after)
        return True


def repeated(raw: bytes, path: bytes, prepared: Prepared) -> RepeatedHead | None:
    """What recognises `raw` when it comes again, or None where its length is not the only thing that frames its body.

    `raw` is a whole head that was served, its empty line included, of HTTP/1.1 and without `Expect`.
    """
    lower = raw.lower()
    start = lower.find(_LENGTH)
    if (
        start < 0
        or not lower.startswith(b"\r\n", start - 2)
        or lower.find(_LENGTH, start + 1) >= 0
        or b"transfer-encoding" in lower
        or raw.count(b"\n") != raw.count(b"\r\n")
    ):
        return None
    start += len(_LENGTH)
    if raw.startswith(b" ", start):
        start += 1
    end = raw.find(b"\r", start)
    if not raw[start:end].isdigit():
        return None
    return RepeatedHead(raw[:start], raw[end:], path, prepared)

"""Clients from URLs: one Redis (`redis://`, `rediss://`, `unix://`), or one that Sentinels name.

`redis+sentinel://[user:password@]host:port,host:port/SERVICE[/DB]` asks the Sentinels for the master of SERVICE with each new
connection, so a failover is followed. `rediss+sentinel://` speaks TLS with both. User and password are those of Redis and of
the Sentinels; `?sentinel_auth=off` leaves the latter without. Other parameters are the connections' (`ssl_ca_certs=...`).
"""

from __future__ import annotations

import urllib.parse
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio import connection, sentinel

ALLOWED = "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://"
_SUFFIX = "+sentinel"
_PORT = 26_379


def client(url: str, **options: Any) -> aioredis.Redis:
    """A client that connects on demand. Raises ValueError for a URL that is none."""
    if not url.partition("://")[0].endswith(_SUFFIX):
        return aioredis.Redis.from_url(url, **options)
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    netloc, _, path = place.partition("/")
    service, _, db = path.partition("/")
    credentials, _, hosts = netloc.rpartition("@")
    if not service or not hosts:
        raise ValueError("a Sentinel URL is redis+sentinel://[user:password@]host:port,host:port/SERVICE[/DB]")
    plain = f"{scheme.removesuffix(_SUFFIX)}://{credentials and credentials + '@'}localhost/{db or 0}"
    given = dict(urllib.parse.parse_qsl(query))
    auth = given.pop("sentinel_auth", "on")
    # One parser for users, passwords and parameters: the client's own.
    parsed = connection.parse_url(plain + ("?" + urllib.parse.urlencode(given) if given else ""))
    kwargs: dict[str, Any] = {
        key: value for key, value in parsed.items() if key not in ("host", "port", "connection_class")
    }
    if scheme.startswith("rediss"):
        kwargs["ssl"] = True
    kwargs |= options
    of_sentinels = {key: value for key, value in kwargs.items() if key not in ("db", "max_connections")}
    if auth == "off":
        of_sentinels = {key: value for key, value in of_sentinels.items() if key not in ("username", "password")}
    asked = sentinel.Sentinel([_address(each) for each in hosts.split(",")], sentinel_kwargs=of_sentinels)  # type: ignore[no-untyped-call]
    return asked.master_for(service, **kwargs)  # type: ignore[no-any-return]


def _address(text: str) -> tuple[str, int]:
    """Host and port of a Sentinel. Raises ValueError."""
    split = urllib.parse.urlsplit(f"//{text}")
    if not split.hostname:
        raise ValueError(f"{text!r} is no address of a Sentinel")
    return split.hostname, split.port or _PORT
